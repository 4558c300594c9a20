"""Each score against its formula written longhand, in float64, one image at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

from tests.training.postprocessors.planted import World, fitted, make_world
from training.postprocessors import Outputs
from training.postprocessors.knn import Knn, prototypes
from training.postprocessors.msp_knn import MspKnn, Surprise
from training.postprocessors.rmds import Rmds, precision

Vector = NDArray[np.float64]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=1)


def softmax(f: Vector) -> Vector:
    odds = np.exp(f - f.max())
    return np.asarray(odds / odds.sum())


def energy(f: Vector) -> float:
    return float(-np.log(np.exp(f).sum()))


def longhand_fdbd(z: Vector, f: Vector, world: World) -> float:
    weight, top = world.head.weight.detach().double().numpy(), int(f.argmax())
    gaps = [abs(f[c] - f[top]) / np.linalg.norm(weight[c] - weight[top]) for c in range(len(f)) if c != top]
    return -sum(gaps) / len(f) / float(np.linalg.norm(z - world.train.features.double().numpy().mean(axis=0)))


def longhand_react(z: Vector, f: Vector, world: World) -> float:
    clipped = np.minimum(z, np.percentile(world.validation.features.double().numpy(), 90))
    return energy(world.head.weight.detach().double().numpy() @ clipped + world.head.bias.detach().double().numpy())


def longhand_scale(z: Vector, f: Vector, world: World) -> float:
    kept = len(z) - round(len(z) * 0.85)
    ratio = z.sum() / np.sort(z)[-kept:].sum()
    return energy(world.head.weight.detach().double().numpy() @ (z * np.exp(ratio)) + world.head.bias.detach().double().numpy())


LONGHAND: dict[str, Callable[[Vector, Vector, World], float]] = {
    "msp": lambda z, f, world: -softmax(f).max(),
    "mls": lambda z, f, world: -f.max(),
    "ebo": lambda z, f, world: energy(f),
    "gen": lambda z, f, world: (softmax(f) ** 0.1 * (1 - softmax(f)) ** 0.1).sum(),
    "fdbd": longhand_fdbd,
    "react": longhand_react,
    "scale": longhand_scale,
}


@pytest.mark.parametrize("key", LONGHAND)
def test_it_equals_its_formula(key: str, world: World) -> None:
    rows = zip(world.ood.features.double().numpy(), world.ood.logits.double().numpy(), strict=True)
    expected = [LONGHAND[key](z, f, world) for z, f in rows]
    scores = fitted(key, world)(world.ood.features, world.ood.logits)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_knn_equals_sklearns_neighbours_in_the_bank(world: World) -> None:
    postprocessor = fitted("knn", world, k=3, bank=100)
    assert isinstance(postprocessor, Knn)
    unit = torch.nn.functional.normalize(world.ood.features, dim=1)
    distances, _ = NearestNeighbors(n_neighbors=3).fit(postprocessor.rows.T.numpy()).kneighbors(unit.numpy())
    np.testing.assert_allclose(postprocessor(world.ood.features, world.ood.logits), distances[:, -1] ** 2, atol=1e-5)


def test_the_bank_holds_as_many_of_each_class(world: World) -> None:
    postprocessor = fitted("knn", world, bank=100)
    assert isinstance(postprocessor, Knn)
    unit = torch.nn.functional.normalize(world.train.features, dim=1)
    means = torch.stack([unit[world.train.labels == label].mean(dim=0) for label in range(4)])
    assert (means @ postprocessor.rows).argmax(dim=0).bincount().tolist() == [25] * 4


def test_the_bank_is_where_the_features_are(world: World) -> None:
    """Each training feature is nearer to its prototype than two features of a class are to each other."""
    postprocessor = fitted("knn", world, bank=100)
    unit = torch.nn.functional.normalize(world.train.features[world.train.labels == 0], dim=1)
    apart = 2 - 2 * (unit @ unit.T).mean()
    assert postprocessor(unit, unit).mean() < 0.7 * apart


def test_a_class_of_fewer_pictures_than_prototypes_keeps_them_all() -> None:
    unit = torch.nn.functional.normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.equal(prototypes(unit, 4), unit)
    assert prototypes(unit[:1].expand(9, 5), 4).shape == (4, 5)


def test_rmds_equals_sklearns_covariances(world: World) -> None:
    train, labels = world.train.features.double().numpy(), world.train.labels.numpy()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(4)])
    within = EmpiricalCovariance(assume_centered=True).fit(train - means[labels])
    overall = EmpiricalCovariance().fit(train)
    z = world.ood.features.double().numpy()
    to_class = np.stack([within.mahalanobis(z - mean) for mean in means], axis=1).min(axis=1)
    scores = fitted("rmds", world)(world.ood.features, world.ood.logits)
    np.testing.assert_allclose(scores, to_class - overall.mahalanobis(z), rtol=1e-3, atol=1e-3)


def test_rmds_costs_one_square_less_than_there_are_classes(world: World) -> None:
    postprocessor = fitted("rmds", world)
    assert isinstance(postprocessor, Rmds)
    assert postprocessor.squares.shape == (16, 3)


def test_rmds_is_exact_where_features_are_too_few_for_a_covariance(world: World) -> None:
    few = Outputs(world.train.features[:12], world.train.logits[:12], world.train.labels[:12])
    postprocessor = Rmds()
    postprocessor.fit(few, world.validation, world.head)
    train, labels = few.features.double(), few.labels
    means = torch.stack([train[labels == c].mean(dim=0) for c in range(4)])
    within, overall = (precision(x.T @ x / 12) for x in (train - means[labels], train - train.mean(dim=0)))
    z = world.ood.features.double()
    to_class = torch.stack([((z - mean) @ within * (z - mean)).sum(dim=1) for mean in means], dim=1).amin(dim=1)
    to_all = ((z - train.mean(dim=0)) @ overall * (z - train.mean(dim=0))).sum(dim=1)
    torch.testing.assert_close(postprocessor(world.ood.features, world.ood.logits), (to_class - to_all).float(), rtol=1e-3, atol=1e-2)


def test_log_odds_order_as_msp_does_and_tell_apart_what_msp_cannot(world: World) -> None:
    postprocessor = fitted("msp_knn", world)
    assert isinstance(postprocessor, MspKnn)
    logits = torch.tensor([[40.0, 0, 0, 0], [30.0, 0, 0, 0], [1.0, 0, 0, 0]])
    odds = postprocessor.log_odds(logits)
    assert odds[0] < odds[1] < odds[2]
    assert logits.softmax(dim=1).amax(dim=1)[0] == logits.softmax(dim=1).amax(dim=1)[1]


def test_surprise_is_minus_log_of_the_p_value_at_its_knots_and_grows_beyond_them() -> None:
    scores = torch.randn(999, generator=torch.Generator().manual_seed(0))
    surprise = Surprise()
    surprise.fit(scores)
    at_least = (scores[None, :] >= surprise.knots[:, None]).sum(dim=1)
    torch.testing.assert_close(surprise(surprise.knots), -((1 + at_least) / 1000).log(), rtol=1e-4, atol=1e-4)
    beyond = surprise(torch.tensor([4.0, 5.0, 50.0]))
    assert (beyond.diff() > 0).all()


def test_the_combination_grows_with_either_part(world: World) -> None:
    postprocessor = fitted("msp_knn", world)
    assert isinstance(postprocessor, MspKnn)
    near_class, far = world.test.features[:1], world.ood.features[:1]
    sure, unsure = world.test.logits[:1], world.ood.logits[:1]
    base = postprocessor(near_class, sure)
    assert postprocessor(far, sure) > base
    assert postprocessor(near_class, unsure) > base


def test_scores_that_are_all_the_same_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="all the same"):
        Surprise().fit(torch.ones(10))
