import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.metrics import (
    accuracy,
    aurc,
    effective_rank,
    expected_calibration_error,
    mean_separation,
    reliability,
    selective_risk,
    separation,
    spectrum,
)


def brute_auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an OOD score is above an ID score, ties counting half."""
    gaps = outside[:, None] - inside[None, :]
    return float((gaps > 0).mean() + 0.5 * (gaps == 0).mean())


def scores(seed: int = 0, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 1, 300).round(decimals), generator.normal(1, 1, 200).round(decimals)


def test_auroc_is_the_share_of_pairs_in_order_with_ties_counting_half() -> None:
    inside, outside = scores()
    found = separation(inside, outside)
    np.testing.assert_allclose(found.auroc, brute_auroc(inside, outside))
    np.testing.assert_allclose(found.auroc, roc_auc_score([0] * 300 + [1] * 200, np.concatenate([inside, outside])))


def test_the_two_fpr95s_are_each_others_mirror_and_not_the_same() -> None:
    inside, outside = scores(decimals=6)
    found = separation(inside, outside)
    # OOD is caught above its own 5 % quantile; ID is kept up to its own 95 % quantile.
    caught_from, kept_to = np.sort(outside)[::-1][int(0.95 * 200) - 1], np.sort(inside)[int(0.95 * 300) - 1]
    np.testing.assert_allclose(found.fpr95_ood_caught, (inside >= caught_from).mean())
    np.testing.assert_allclose(found.fpr95_id_kept, (outside <= kept_to).mean())
    assert found.fpr95_ood_caught != found.fpr95_id_kept


def test_perfect_separation_has_areas_of_one_and_no_false_positives() -> None:
    found = separation(np.arange(10.0), np.arange(20.0, 40.0))
    areas_and_rates = [found.auroc, found.aupr_in, found.aupr_out, found.fpr95_id_kept, found.fpr95_ood_caught]
    np.testing.assert_allclose(areas_and_rates, [1, 1, 1, 0, 0], atol=1e-12)


def test_aupr_in_and_out_swap_with_the_roles() -> None:
    inside, outside = scores()
    mirrored = separation(-outside, -inside)
    found = separation(inside, outside)
    np.testing.assert_allclose([found.aupr_in, found.aupr_out], [mirrored.aupr_out, mirrored.aupr_in])


def test_the_mean_over_sets_is_unweighted() -> None:
    one, two = separation(*scores(0)), separation(*scores(1))
    mean = mean_separation([one, two])
    assert mean is not None
    np.testing.assert_allclose(mean.auroc, (one.auroc + two.auroc) / 2)
    assert mean_separation([]) is None


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 5 + [1] * 5 + [1] * 10)
    # Bin at 0.9: half right, gap 0.4. Bin at 0.6: all right, gap 0.4.
    np.testing.assert_allclose(expected_calibration_error(probabilities, labels), 0.4)


def test_gaps_of_different_bins_do_not_cancel_and_gaps_in_one_bin_do() -> None:
    overconfident, underconfident = np.array([[0.9, 0.1]] * 2), np.array([[0.55, 0.45]] * 2)
    both = expected_calibration_error(np.concatenate([overconfident, underconfident]), np.array([1, 1, 0, 0]))
    np.testing.assert_allclose(both, (0.9 + 0.45) / 2)
    one_bin = expected_calibration_error(np.array([[0.9, 0.1]] * 10), np.array([0] * 9 + [1]))
    np.testing.assert_allclose(one_bin, 0, atol=1e-12)


def test_full_confidence_falls_into_the_last_bin() -> None:
    np.testing.assert_allclose(expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])), 0)


def test_accuracy_is_the_share_of_largest_entries_at_the_label() -> None:
    assert accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])) == 0.5


def test_the_risk_at_each_coverage_is_the_error_among_the_least_strange() -> None:
    scores, wrong = np.array([0.3, 0.1, 0.2, 0.4]), np.array([True, False, False, True])
    assert selective_risk(scores, wrong).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert aurc(scores, wrong) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_equal_scores_come_in_no_order() -> None:
    wrong = np.array([True, False, False, False])
    assert selective_risk(np.zeros(4), wrong).tolist() == pytest.approx([0.25] * 4)
    assert selective_risk(np.zeros(4), wrong[::-1]).tolist() == pytest.approx([0.25] * 4)


def test_the_spectrum_counts_the_directions_that_features_use() -> None:
    features = np.zeros((1000, 8), np.float32)
    features[:, :3] = np.random.default_rng(0).normal(size=(1000, 3))
    values = spectrum(features)
    assert values[0] == 1
    assert (values[:3] > 0.5).all()
    assert values[3:].max() < 1e-12
    assert effective_rank(values) == pytest.approx(3, rel=0.02)


def test_the_calibration_error_is_the_gap_of_the_reliability_diagram() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 500)
    labels = generator.integers(0, 4, 500)
    bins = reliability(probabilities, labels)
    assert bins.counts.sum() == 500
    filled = bins.counts > 0
    gap = (bins.counts * abs(bins.accuracy - bins.confidence))[filled].sum() / 500
    assert expected_calibration_error(probabilities, labels) == pytest.approx(gap)
