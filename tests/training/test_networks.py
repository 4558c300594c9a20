from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from training.networks import IMAGENET_MEAN, IMAGENET_STD, Classifier, build_network

HALF = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def pictures(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "width", "size", "features"),
    [
        ("resnet18_32x32", 64, 32, 512),
        ("resnet18_32x32", 8, 32, 64),
        ("airbench_32x32", 24, 32, 96),
        ("resnet18_224x224", 64, 64, 512),
        ("resnet50_224x224", 64, 64, 2048),
    ],
)
def test_a_network_gives_features_and_logits(name: str, width: int, size: int, features: int) -> None:
    network = build_network(name, 7, *HALF, width).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        z, logits = network(pictures(2, size))
    assert z.shape == (2, features)
    assert logits.shape == (2, 7)


def test_logits_are_the_head_of_the_features() -> None:
    network = build_network("resnet18_32x32", 7, *HALF, 4).eval()
    with torch.inference_mode():
        z, logits = network(pictures(3, 32))
        torch.testing.assert_close(logits, z @ network.head.weight.T + network.head.bias)


def test_resnet18_for_32_pixels_has_11_17_million_parameters() -> None:
    network = build_network("resnet18_32x32", 10, *HALF)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962


def test_the_first_stage_keeps_all_32_pixels_and_the_last_has_4() -> None:
    seen: list[tuple[int, ...]] = []
    network = build_network("resnet18_32x32", 10, *HALF, 2).eval()
    for block in network.backbone.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    network(pictures(1, 32))
    assert seen[0] == (1, 2, 32, 32)
    assert seen[-1] == (1, 16, 4, 4)


def stripes(count: int) -> Tensor:
    """Pictures whose neighbouring pixels are alike, as in photographs."""
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    large = nn.functional.interpolate(small, (32, 32), mode="bilinear")
    return (255 * large).byte().permute(0, 2, 3, 1).contiguous()


def test_the_first_layer_of_airbench_whitens_patches_and_is_not_trained() -> None:
    network = build_network("airbench_32x32", 10, (0.5, 0.5, 0.5), (0.005, 0.005, 0.005), 24)
    network.whiten(lambda: stripes(50))
    stem = network.backbone.stem
    assert isinstance(stem, nn.Conv2d)
    directions = nn.functional.conv2d(network.normalised(stripes(50)), stem.weight).permute(0, 2, 3, 1).reshape(-1, 24)
    covariance = (directions.T @ directions / len(directions))[:12, :12]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.05, rtol=0)
    torch.testing.assert_close(directions[:, :12], -directions[:, 12:])
    _, logits = network(stripes(2))
    logits.sum().backward()
    assert stem.weight.grad is None


def test_airbench_begins_by_copying_its_inputs() -> None:
    network = build_network("airbench_32x32", 10, *HALF, 24)
    weights = [module.weight for module in network.backbone.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    assert len(weights) == 6
    assert all(torch.equal(weight[: weight.shape[1], :, 1, 1], torch.eye(weight.shape[1])) for weight in weights)


def test_the_network_normalises_the_pixels_itself() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    network = Classifier(Mean(), nn.Linear(3, 2), (0.2, 0.4, 0.6), (0.1, 0.2, 0.5))
    features, _ = network(torch.tensor([51, 204, 255], dtype=torch.uint8).expand(1, 8, 8, 3))
    torch.testing.assert_close(features, torch.tensor([[0.0, 2.0, 0.8]]))


def test_224_networks_are_torchvisions() -> None:
    ours = build_network("resnet18_224x224", 1000, IMAGENET_MEAN, IMAGENET_STD).eval()
    theirs = models.resnet18(weights=None).eval()
    theirs.load_state_dict(ours.backbone.state_dict() | {"fc." + key: value for key, value in ours.head.state_dict().items()})
    images = pictures(2, 64)
    prepared = models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)(images.permute(0, 3, 1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images)[1], theirs(prepared), rtol=1e-4, atol=1e-4)


def test_pretrained_weights_are_torchvisions_and_the_head_is_new_unless_it_has_1000_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = models.resnet18(weights=None)
    file = tmp_path / "hub" / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    ours = build_network("resnet18_224x224", 7, IMAGENET_MEAN, IMAGENET_STD, pretrained=True)
    assert torch.equal(ours.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)  # type: ignore[union-attr,index]
    assert ours.head.weight.shape == (7, 512)
    whole = build_network("resnet18_224x224", 1000, IMAGENET_MEAN, IMAGENET_STD, pretrained=True)
    assert torch.equal(whole.head.weight, theirs.fc.weight)


def test_there_are_no_pretrained_weights_for_32_pixels() -> None:
    with pytest.raises(ValueError, match="not for resnet18_32x32"):
        build_network("resnet18_32x32", 7, *HALF, pretrained=True)


def test_torchvisions_networks_have_one_width() -> None:
    with pytest.raises(ValueError, match="width is 8"):
        build_network("resnet18_224x224", 7, *HALF, width=8)


def test_logits_are_not_rounded_to_bf16_under_autocast() -> None:
    network = build_network("resnet18_32x32", 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), width=2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features, logits = network(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(logits, network.head(features))
