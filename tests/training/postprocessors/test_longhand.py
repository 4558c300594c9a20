"""The scores that pytorch-ood lacks, against their formulas written longhand in numpy, in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from tests.training.postprocessors.planted import World, fitted, make_world
from training.postprocessors.bank import balanced_rows
from training.postprocessors.weiper import Weiper

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=3)


def arrays(*tensors: torch.Tensor) -> list[Array]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def scores_of(key: str, world: World) -> Array:
    return fitted(key, world)(world.ood.features, world.ood.logits).double().numpy()


def longhand_boundary(world: World) -> Array:
    weight, logits = arrays(world.head.weight, world.ood.logits)
    found = []
    for f in logits:
        top = f.argmax()
        found.append(sum((f[top] - f[c]) / np.linalg.norm(weight[top] - weight[c]) for c in range(len(f)) if c != top) / len(f))
    return np.array(found)


def test_boundary_is_minus_the_mean_distance_to_the_boundaries(world: World) -> None:
    np.testing.assert_allclose(scores_of("boundary", world), -longhand_boundary(world), rtol=1e-4)


def test_ebo_scaled_is_the_negative_energy_of_the_scaled_logits(world: World) -> None:
    (logits,) = arrays(world.ood.logits)
    np.testing.assert_allclose(scores_of("ebo_scaled", world), logsumexp(logits / longhand_boundary(world)[:, None], axis=1), rtol=1e-3)


def test_the_temperature_minimises_the_cross_entropy(world: World) -> None:
    logits, labels = arrays(world.validation.logits)[0], world.validation.labels.numpy()
    # Labels that disagree now and then, or the best temperature would be zero.
    labels = np.where(np.arange(len(labels)) % 5 == 0, (labels + 1) % 4, labels)
    world = world._replace(validation=world.validation._replace(labels=torch.from_numpy(labels)))
    best = minimize_scalar(lambda t: -log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].mean(), bounds=(0.1, 50), method="bounded")
    (temperature,) = fitted("tempscale", world).buffers()
    assert temperature.item() == pytest.approx(best.x, rel=1e-3)


def test_neco_equals_sklearns_scaler_and_components(world: World) -> None:
    train, z = arrays(world.train.features, world.ood.features)
    scaler = StandardScaler().fit(train)
    standard = scaler.transform(z)
    reduced = PCA(8).fit(scaler.transform(train)).transform(standard)
    np.testing.assert_allclose(scores_of("neco", world), -np.linalg.norm(reduced, axis=1) / np.linalg.norm(standard, axis=1), rtol=1e-4)


def test_residual_equals_what_sklearns_covariance_leaves(world: World) -> None:
    train, z, weight, bias = arrays(world.validation.features, world.ood.features, world.head.weight, world.head.bias)
    u = -np.linalg.pinv(weight) @ bias
    values, vectors = np.linalg.eig(EmpiricalCovariance(assume_centered=True).fit(train - u).covariance_)
    null_space = vectors.T[np.argsort(-values)[8:]].T
    np.testing.assert_allclose(scores_of("residual", world), np.linalg.norm((z - u) @ null_space, axis=1), rtol=1e-4)


@pytest.mark.parametrize("key", ["vim", "residual", "neco"])
def test_a_subspace_of_all_directions_is_refused(key: str, world: World) -> None:
    with pytest.raises(ValueError, match=f"{key} .*16.* 16 features.*: dim must be less"):
        fitted(key, world, dim=16)


def test_relation_sums_the_relations_above_the_threshold(world: World) -> None:
    rows = balanced_rows(world.train.labels, 500)
    bank, bank_logits, z, f = arrays(world.train.features[rows], world.train.logits[rows], world.ood.features, world.ood.logits)
    expected = []
    for feature, logits in zip(z, f, strict=True):
        cosines = bank @ feature / np.linalg.norm(bank, axis=1) / np.linalg.norm(feature)
        relations = np.maximum(0, cosines) * (softmax(bank_logits, axis=1) @ softmax(logits))
        expected.append(-relations[relations > 0.03].sum())
    np.testing.assert_allclose(scores_of("relation", world), expected, rtol=1e-3)


def test_gradnorm_is_the_norm_that_autograd_finds(world: World) -> None:
    for z, score in zip(world.ood.features[:20], fitted("gradnorm", world)(world.ood.features, world.ood.logits), strict=False):
        (gradient,) = torch.autograd.grad(-world.head(z).log_softmax(dim=0).sum(), world.head.weight)
        torch.testing.assert_close(-gradient.abs().sum(), score, rtol=1e-4, atol=1e-4)


def hard_histograms(values: Array, edges: Array) -> Array:
    """The authors' histograms: values beyond the training range are counted, but in no bin."""
    return np.stack([np.histogram(row, edges)[0] / len(row) for row in values])


def linear_histograms(values: Array, edges: Array) -> Array:
    found = np.zeros((len(values), len(edges) - 1))
    for i, row in enumerate(values):
        for value in row:
            place = np.clip((value - edges[0]) / (edges[1] - edges[0]) - 0.5, 0, len(edges) - 2)
            left = min(int(place), len(edges) - 3)
            found[i, left] += 1 - (place - left)
            found[i, left + 1] += place - left
    return found / values.shape[1]


def divergence(values: Array, train: Array, eps: float, histograms: object) -> Array:
    edges = np.linspace(train.min(), train.max(), 101)
    edges[-1] += 1e-5  # the largest training value lies in the last bin
    typical = histograms(train, edges).mean(axis=0) + eps  # type: ignore[operator]
    typical /= typical.sum()
    padded = np.pad(histograms(values, edges), ((0, 0), (9, 10)), mode="edge")  # type: ignore[operator]
    smooth = np.stack([padded[:, i : i + 20].mean(axis=1) for i in range(100)], axis=1) + eps
    smooth /= smooth.sum(axis=1, keepdims=True)
    return ((smooth - typical) * np.log(smooth / typical)).sum(axis=1)


@pytest.mark.parametrize(("histograms", "same"), [(linear_histograms, True), (hard_histograms, False)], ids=["as-here", "as-the-authors"])
def test_weiper_weighs_two_divergences_and_the_perturbed_msp(histograms: object, same: bool, world: World) -> None:
    postprocessor = fitted("weiper", world)
    assert isinstance(postprocessor, Weiper)
    weight, bias, train, z = arrays(postprocessor.weight, postprocessor.bias, world.train.features[:200], world.ood.features[:60])
    postprocessor.fit(world.train._replace(features=world.train.features[:200]), world.validation, world.head)
    msp = softmax((z @ weight + bias).reshape(60, 100, 4), axis=2).max(axis=2).mean(axis=1)
    of_features = divergence(z, train, 0.01, histograms)
    expected = of_features + 2.5 * divergence(z @ weight + bias, train @ weight + bias, 0.025, histograms) - 0.1 * msp
    scores = postprocessor(world.ood.features[:60], world.ood.logits[:60])
    if same:
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    else:
        assert spearmanr(scores, expected).statistic > 0.9
