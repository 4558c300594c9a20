"""The ImageNet recipes, for a few steps on two dozen pictures of Tiny-ImageNet: that each trains, at 64 and at 224 pixels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from training.checkpoint import load_trained
from training.config import PRESETS, Recipe
from training.networks import build_network
from training.train import Trainer

PICTURES = str(Path(__file__).parent.parent / "tiny-imagenet.parquet")  # three classes of eight


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    """Weights where torchvision keeps those it has downloaded: a ResNet-50 as it is initialised."""
    home = tmp_path_factory.mktemp("torch")
    file = home / "hub" / "checkpoints" / Path(models.ResNet50_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    state = models.resnet50(weights=None).state_dict()
    torch.save(state, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        yield state
    file.unlink()


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", ["imagenet200", "imagenet1k"])
def test_the_recipe_trains_for_a_few_steps(name: str, size: int, weights: dict[str, Tensor], tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []
    losses: list[float] = []

    class Recorder(Trainer):
        def train_step(self, images: Tensor, labels: Tensor) -> Any:
            loss, accuracy = super().train_step(images, labels)
            losses.append(float(loss))
            return loss, accuracy

    recipe = replace(Recipe(data=PICTURES, **PRESETS[name]), size=size, epochs=1, batch_size=4, calibration_share=0.25, validation_share=0.34)
    trainer = Recorder(recipe, tmp_path / "run")
    trainer.network.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape)))
    before = {key: tensor.clone() for key, tensor in trainer.network.state_dict().items()}
    if recipe.pretrained:
        assert torch.equal(before["backbone.conv1.weight"], weights["conv1.weight"])
        assert trainer.mean == [0.485, 0.456, 0.406]
    assert trainer.learning_rate() == PRESETS[name].get("lr", 0.1)
    trainer.fit()
    assert seen[:3] == [(4, size, size, 3)] * 3
    assert len(losses) == 3
    assert all(0 < loss < 20 for loss in losses)
    trained = load_trained(tmp_path / "run")
    assert trained.recipe.input.size == size
    assert len(trained.classes) == 3
    after = trained.network.state_dict()
    assert not torch.equal(after["backbone.conv1.weight"], before["backbone.conv1.weight"])
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_elogitnorm_of_a_thousand_classes_takes_a_step_with_the_pretrained_head(weights: dict[str, Tensor]) -> None:
    from training.losses import elogitnorm

    network = build_network("resnet50_224x224", 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), pretrained=True)
    assert torch.equal(network.head.weight, weights["fc.weight"])
    _, logits = network(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    elogitnorm(logits, network.head, torch.tensor([0, 999])).backward()
    assert network.head.weight.grad is not None
    assert torch.isfinite(network.head.weight.grad).all()
    assert network.head.weight.grad.abs().max() > 0
