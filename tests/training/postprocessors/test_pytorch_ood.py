"""Each score that pytorch-ood has too orders the same features as it does there."""

import pytest
import torch
from pytorch_ood.detector import OpenMax
from torch import Tensor

from benchmarks.theirs import THEIRS, theirs
from tests.training.postprocessors.planted import World, fitted, make_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=2)


def falls(values: Tensor) -> float:
    """The most that a sequence falls back behind what it had reached, as a share of its range: 0 where it only rises."""
    return ((values.cummax(dim=0).values - values).max() / (values.max() - values.min())).item()


@pytest.mark.parametrize("key", THEIRS)
def test_the_order_is_that_of_pytorch_ood(key: str, world: World) -> None:
    postprocessor = fitted(key, world)
    features = torch.cat([world.test.features, world.ood.features])
    logits = torch.cat([world.test.logits, world.ood.logits])
    expected = theirs(key, postprocessor, world.train, world.validation, world.head)(features, logits).double()
    found = postprocessor(features, logits).double()
    # Up to ties: neither may fall by more than float32's rounding where the other rises.
    assert falls(expected[found.argsort()]) < 1e-5
    assert falls(found[expected.argsort()]) < 1e-5


def test_openmax_gives_the_probability_of_the_unknown_class(world: World) -> None:
    postprocessor = fitted("openmax", world)
    expected = theirs("openmax", postprocessor, world.train, world.validation, world.head)(world.ood.features, world.ood.logits)
    found = postprocessor(world.ood.features, world.ood.logits).sigmoid()
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


def test_openmax_fits_the_weibull_distributions_that_pytorch_ood_fits(world: World) -> None:
    postprocessor = fitted("openmax", world)
    right = world.train.logits.argmax(dim=1) == world.train.labels
    expected = OpenMax(None, tailsize=20).fit_logits(world.train.logits[right], world.train.labels[right])
    for label, weibull in expected._openmax.distributions.items():
        assert postprocessor.locations[label].item() == pytest.approx(weibull.scale - weibull.translation + weibull.min_val, abs=2e-3)
        assert postprocessor.spreads[label].item() == pytest.approx(weibull.scale / weibull.c, abs=2e-3)
