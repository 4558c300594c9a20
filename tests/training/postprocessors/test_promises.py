"""What every entry of the registry promises, tested on every entry of the registry."""

import inspect
import io

import numpy as np
import onnxruntime as ort
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tests.training.postprocessors.planted import WIDTH, World, fitted, make_world
from training.graph import stacked, to_onnx
from training.postprocessors import REGISTRY

OTHER_VALUES = {"temperature": 50.0, "gamma": 2.0, "percentile": 60.0, "k": 2, "bank": 40}
each_score = pytest.mark.parametrize("key", REGISTRY)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@each_score
def test_the_registry_knows_it_by_its_key(key: str) -> None:
    assert REGISTRY[key].key == key


@each_score
def test_higher_means_stranger(key: str, world: World) -> None:
    postprocessor = fitted(key, world)
    scores = torch.cat([postprocessor(part.features, part.logits) for part in (world.test, world.ood)])
    strange = [0] * len(world.test.labels) + [1] * len(world.ood.labels)
    assert roc_auc_score(strange, scores) > 0.7


@each_score
def test_one_finite_float32_per_image(key: str, world: World) -> None:
    scores = fitted(key, world)(world.test.features, world.test.logits)
    assert scores.shape == (len(world.test.labels),)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


@each_score
def test_a_feature_of_zeros_and_equal_logits_still_gives_a_finite_score(key: str, world: World) -> None:
    score = fitted(key, world)(torch.zeros(2, WIDTH), torch.zeros(2, world.head.out_features))
    assert score.isfinite().all()


@each_score
def test_rows_do_not_see_each_other(key: str, world: World) -> None:
    postprocessor = fitted(key, world)
    features, logits = world.ood.features[:60], world.ood.logits[:60]
    alone = torch.cat([postprocessor(features[i : i + 1], logits[i : i + 1]) for i in range(60)])
    torch.testing.assert_close(postprocessor(features, logits), alone, rtol=1e-4, atol=1e-4)


@each_score
def test_fitting_twice_gives_the_same(key: str, world: World) -> None:
    first, second = (fitted(key, world)(world.test.features, world.test.logits) for _ in range(2))
    assert torch.equal(first, second)


def hyperparameters(key: str) -> list[str]:
    return [name for name, about in inspect.signature(REGISTRY[key]).parameters.items() if about.kind is about.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize(("key", "name"), [(key, name) for key in REGISTRY for name in hyperparameters(key)])
def test_every_hyperparameter_changes_the_score(key: str, name: str, world: World) -> None:
    before = fitted(key, world)(world.test.features, world.test.logits)
    after = fitted(key, world, **{name: OTHER_VALUES[name]})(world.test.features, world.test.logits)
    assert not torch.allclose(before, after)


class Planted(nn.Module):
    """A head, one score and the largest logit behind a picture's pixels: small enough to be exported in a moment."""

    def __init__(self, head: nn.Linear, key: str, world: World) -> None:
        super().__init__()
        self.head = head
        self.postprocessor = fitted(key, world)

    def forward(self, images: Tensor) -> Tensor:
        features = images.float().flatten(1)[:, :WIDTH] / 64
        logits = self.head(features)
        return stacked([self.postprocessor(features, logits), logits.amax(dim=1)])


@each_score
def test_the_graph_equals_torch_at_batch_1_2_and_5(key: str, world: World) -> None:
    module = Planted(world.head, key, world).eval()
    session = ort.InferenceSession(io.BytesIO(to_onnx(module, 4, ["scores"])).getvalue(), providers=["CPUExecutionProvider"])
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3), np.uint8))
    for batch in (images[:1], images[1:3], images[3:8]):
        (scores,) = session.run(["scores"], {"images": batch.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(scores), module(batch), rtol=1e-4, atol=1e-4)
