import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from training.postprocessors.moments import CHUNK, between_classes, class_means, covariance, mean, within_classes
from training.postprocessors.percentile import percentile

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(2 * CHUNK + 7, 5, generator=GENERATOR) + 3
LABELS = torch.randint(0, 4, (len(FEATURES),), generator=GENERATOR) * 2
X = FEATURES.double().numpy()


def test_means_are_numpys_whatever_the_chunks() -> None:
    np.testing.assert_allclose(mean(FEATURES), X.mean(axis=0), rtol=1e-12)
    classes = class_means(FEATURES, LABELS)
    np.testing.assert_allclose(classes.means, [X[LABELS.eq(label).numpy()].mean(axis=0) for label in range(0, 8, 2)], rtol=1e-12)
    np.testing.assert_allclose(classes.overall, X.mean(axis=0), rtol=1e-12)


def test_covariances_are_sklearns() -> None:
    np.testing.assert_allclose(covariance(FEATURES, mean(FEATURES)), EmpiricalCovariance().fit(X).covariance_, rtol=1e-10, atol=1e-12)
    about_zero = EmpiricalCovariance(assume_centered=True).fit(X).covariance_
    np.testing.assert_allclose(covariance(FEATURES, torch.zeros(5, dtype=torch.float64)), about_zero, rtol=1e-10)


def test_within_and_between_classes_add_up_to_the_covariance_of_all() -> None:
    classes = class_means(FEATURES, LABELS)
    total = within_classes(FEATURES, classes) + between_classes(classes)
    torch.testing.assert_close(total, covariance(FEATURES, mean(FEATURES)))


@pytest.mark.parametrize("percent", [0.0, 1.0, 37.3, 90.0, 99.9, 100.0])
def test_percentiles_are_numpys(percent: float) -> None:
    values = torch.cat(
        [torch.randn(1001, generator=GENERATOR), torch.zeros(50), -torch.zeros(50), torch.full((9,), 1e-40), torch.tensor([-1e30, 1e30])]
    )
    assert percentile(values.view(2, -1), percent).item() == pytest.approx(np.percentile(values.double().numpy(), percent), rel=1e-12, abs=0)
