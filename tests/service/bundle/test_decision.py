import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from service.bundle.decision import (
    Guarantee,
    TooFewCalibrationImages,
    flag_by_fdr,
    images_needed,
    images_needed_for_fdr,
    least_alpha,
    marginal_rank,
    open_gate,
    p_values,
    pac_rank,
)

alphas = st.floats(0.001, 0.5)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(1000, 0.05, 39), (1000, 0.01, 5), (5000, 0.05, 225), (5000, 0.01, 39), (500, 0.05, 17), (100, 0.05, 2)]
)
def test_pac_ranks_are_those_of_the_beta_distribution_s_tables(n: int, alpha: float, rank: int) -> None:
    assert pac_rank(n, alpha, 0.05) == rank


@given(n=st.integers(1, 3000), alpha=alphas, delta=st.floats(0.01, 0.2))
def test_the_pac_rank_is_the_largest_that_keeps_the_promise(n: int, alpha: float, delta: float) -> None:
    k = pac_rank(n, alpha, delta)
    # The tiny margin is for the last digits of two ways to sum.
    assert k == 0 or stats.beta.sf(alpha, k, n + 1 - k) <= delta + 1e-9
    assert k == n or stats.beta.sf(alpha, k + 1, n - k) > delta - 1e-9


def test_a_pac_rank_of_a_hundred_thousand_images_does_not_underflow() -> None:
    k = pac_rank(100_000, 0.5, 0.05)
    assert stats.beta.sf(0.5, k, 100_001 - k) <= 0.05 < stats.beta.sf(0.5, k + 1, 100_000 - k)


@given(n=st.integers(1, 10_000), alpha=alphas)
def test_the_marginal_rank_rejects_at_most_alpha_on_average(n: int, alpha: float) -> None:
    k = marginal_rank(n, alpha)
    assert k / (n + 1) <= alpha + 1e-9
    assert (k + 1) / (n + 1) > alpha


@pytest.mark.parametrize(("alpha", "guarantee", "needed"), [(0.05, "pac", 59), (0.01, "pac", 299), (0.05, "marginal", 19), (0.01, "marginal", 99)])
def test_the_fewest_images_suffice_and_one_less_does_not(alpha: float, guarantee: Guarantee, needed: int) -> None:
    assert images_needed(alpha, guarantee, 0.05) == needed
    open_gate(np.arange(needed, dtype=np.float32), alpha, guarantee, 0.05)
    with pytest.raises(TooFewCalibrationImages, match=f"needs at least {needed} calibration images, the bundle has {needed - 1}"):
        open_gate(np.arange(needed - 1, dtype=np.float32), alpha, guarantee, 0.05)


@given(n=st.integers(100, 2000), alpha=st.floats(0.05, 0.5), guarantee=st.sampled_from(["pac", "marginal"]), seed=st.integers(0, 100))
def test_of_the_calibration_images_themselves_fewer_than_the_rank_are_rejected(n: int, alpha: float, guarantee: Guarantee, seed: int) -> None:
    calibration = np.sort(np.random.default_rng(seed).normal(size=n).astype(np.float32))
    gate = open_gate(calibration, alpha, guarantee, 0.05)
    assert (calibration > gate.threshold).sum() < gate.expected_false_reject_ratio * (n + 1) <= alpha * (n + 1) + 1e-6


def test_with_pac_at_most_a_twentieth_of_calibration_sets_reject_more_than_alpha() -> None:
    random = np.random.default_rng(0)
    # The share of uniform ID scores above a threshold is one minus the threshold.
    shares = [1 - open_gate(np.sort(random.random(500).astype(np.float32)), 0.05, "pac", 0.05).threshold for _ in range(2000)]
    assert np.mean(np.array(shares) > 0.05) < 0.065


@given(scores=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), score=st.floats(-200, 200, width=32))
def test_a_p_value_counts_the_calibration_scores_at_least_as_strange(scores: list[float], score: float) -> None:
    calibration = np.sort(np.array(scores, np.float32))
    expected = (1 + sum(other >= np.float32(score) for other in calibration)) / (len(scores) + 1)
    assert p_values(calibration, np.array([score], np.float32))[0] == expected


@given(alpha=st.floats(0.02, 0.5), score=st.floats(-4, 4, width=32))
def test_with_the_marginal_guarantee_rejecting_is_having_a_p_value_of_at_most_alpha(alpha: float, score: float) -> None:
    calibration = np.sort(np.random.default_rng(1).normal(size=200).astype(np.float32))
    gate = open_gate(calibration, alpha, "marginal", 0.05)
    rejected = np.float32(score) > gate.threshold
    assert rejected == (p_values(calibration, np.array([score], np.float32))[0] <= gate.expected_false_reject_ratio)


@given(m=st.integers(1, 60), fdr=st.floats(0.01, 0.5), seed=st.integers(0, 1000))
def test_flags_are_those_of_benjamini_and_hochberg(m: int, fdr: float, seed: int) -> None:
    values = np.random.default_rng(seed).integers(1, 102, m) / 101 * 0.3
    assert flag_by_fdr(values, fdr).tolist() == (stats.false_discovery_control(values) <= fdr + 1e-12).tolist()


def test_at_most_the_asked_share_of_the_flagged_is_fine_on_average() -> None:
    random = np.random.default_rng(0)
    wrong = []
    for _ in range(400):
        calibration = np.sort(random.normal(size=1000).astype(np.float32))
        scores = np.concatenate([random.normal(size=80), random.normal(4, 1, size=20)]).astype(np.float32)
        flagged = flag_by_fdr(p_values(calibration, scores), 0.1)
        assert flagged[80:].sum() > 5
        wrong.append(flagged[:80].sum() / max(1, flagged.sum()))
    assert np.mean(wrong) <= 0.1


@pytest.mark.parametrize(("m", "needed"), [(32, 319), (512, 5119), (1, 9)])
def test_a_lone_strange_image_can_be_flagged_with_the_images_needed_and_not_with_one_less(m: int, needed: int) -> None:
    assert images_needed_for_fdr(m, 0.1) == needed
    for n, flagged in ((needed, 1), (needed - 1, 0)):
        values = np.full(m, 1.0)
        values[0] = 1 / (n + 1)
        assert flag_by_fdr(values, 0.1).sum() == flagged


def test_of_no_images_none_is_flagged() -> None:
    assert flag_by_fdr(np.array([]), 0.1).tolist() == []


@pytest.mark.parametrize("n", [3, 59, 100, 999, 2995])
def test_where_the_images_needed_are_there_a_threshold_can_be_had_to_the_last_digit(n: int) -> None:
    alpha = least_alpha(n, 0.05)
    assert images_needed(alpha, "pac", 0.05) == n
    assert pac_rank(n, alpha, 0.05) == 1
