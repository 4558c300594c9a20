"""ODIN and iODIN on a real, small network: what they promise, and that they are what they are called after."""

import inspect
from pathlib import Path

import pytest
import torch
from pytorch_ood.detector import ODIN
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from tests.training.postprocessors.test_promises import OTHER_VALUES
from training.benchmarks import Targets
from training.checkpoint import Trained, load_trained
from training.data import load
from training.postprocessors import EVALUATED_ONLY, REGISTRY

each_score = pytest.mark.parametrize("key", EVALUATED_ONLY)


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> Trained:
    found = load_trained(trained_run)
    found.network.eval()
    return found


@pytest.fixture(scope="module")
def inside(trained: Trained, targets: Targets) -> Tensor:
    return load(targets.id_test, trained.recipe.input, "ID").take(torch.arange(12))


@pytest.fixture(scope="module")
def outside(trained: Trained, targets: Targets) -> Tensor:
    return load(targets.sources["mixtures"], trained.recipe.input, "OOD").take(torch.arange(12))


def hyperparameters(key: str) -> list[str]:
    return list(inspect.signature(EVALUATED_ONLY[key]).parameters)


@each_score
def test_its_key_is_its_own(key: str) -> None:
    assert EVALUATED_ONLY[key].key == key
    assert key not in REGISTRY


@each_score
def test_higher_means_stranger(key: str, trained: Trained, inside: Tensor, outside: Tensor) -> None:
    scores = EVALUATED_ONLY[key]()(trained.network, torch.cat([inside, outside]))
    assert scores.shape == (24,)
    assert scores.isfinite().all()
    assert roc_auc_score([0] * 12 + [1] * 12, scores) > 0.5


@each_score
def test_rows_do_not_see_each_other(key: str, trained: Trained, inside: Tensor) -> None:
    score = EVALUATED_ONLY[key]()
    alone = torch.cat([score(trained.network, inside[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(score(trained.network, inside[:6]), alone, rtol=1e-5, atol=1e-6)


@each_score
def test_the_network_keeps_no_gradient(key: str, trained: Trained, inside: Tensor) -> None:
    EVALUATED_ONLY[key]()(trained.network, inside[:2])
    assert all(parameter.grad is None for parameter in trained.network.parameters())


@pytest.mark.parametrize(("key", "name"), [(key, name) for key in EVALUATED_ONLY for name in hyperparameters(key)])
def test_every_hyperparameter_changes_the_score(key: str, name: str, trained: Trained, inside: Tensor) -> None:
    assert name in EVALUATED_ONLY[key].sweep
    other = EVALUATED_ONLY[key](**{name: OTHER_VALUES[name]})
    assert not torch.allclose(EVALUATED_ONLY[key]()(trained.network, inside), other(trained.network, inside), rtol=0, atol=1e-9)


class OnNormalised(nn.Module):
    """The network as pytorch-ood takes it: normalised pictures (N, 3, H, W) in, logits out."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network = trained.network

    def normalise(self, images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() - self.network.mean) / self.network.std

    def forward(self, normalised: Tensor) -> Tensor:
        return self.network.head(self.network.backbone(normalised))


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_is_that_of_pytorch_ood(temperature: float, trained: Trained, inside: Tensor) -> None:
    model = OnNormalised(trained)
    std = (trained.network.std.flatten() / 255).tolist()
    expected = ODIN(model, eps=0.0014, temperature=temperature, norm_std=std).predict(model.normalise(inside))
    scores = EVALUATED_ONLY["odin"](temperature=temperature)(trained.network, inside)
    torch.testing.assert_close(scores.float(), expected, rtol=1e-4 / temperature, atol=1e-6)


def test_iodin_moves_the_one_value_with_the_largest_gradient(trained: Trained, inside: Tensor) -> None:
    model = OnNormalised(trained)
    expected = []
    for image in inside:
        x = model.normalise(image[None]).requires_grad_()
        logits = model(x) / 1000
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, logits.argmax(dim=1)), x)
        place = gradient.abs().flatten().argmax()
        moved = x.detach().clone().flatten()
        moved[place] -= 0.0014 * gradient.flatten()[place].sign() / (trained.network.std.flatten()[place // image[..., 0].numel()] / 255)
        expected.append(-(model(moved.view_as(x)).detach().double() / 1000).softmax(dim=1).max())
    scores = EVALUATED_ONLY["iodin"]()(trained.network, inside)
    torch.testing.assert_close(scores, torch.stack(expected), rtol=0, atol=1e-8)
