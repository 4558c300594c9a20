"""The alarm's promise, on simulated streams."""

import copy
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom

from service.bundle.decision import p_values
from service.monitor import BETS, BLOCK, LOG_ALARM, SPLIT, Drift, Prevalence, estimate
from tests.streams import ALPHA, calibrated, naive_evidence, stream


def observed(drift: Drift, rejected: NDArray[np.bool_]) -> Drift:
    drift.observe(rejected)
    return drift


def evidence(rejected: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What Drift's log_e_value is after each whole block of a stream, in closed form: a hundred times as fast."""
    blocks = len(rejected) // BLOCK
    strange = rejected[: blocks * BLOCK].reshape(blocks, BLOCK).sum(axis=1)[:, None]
    drift = Drift(ALPHA)
    growth = np.cumsum(strange * drift.log_gain + (BLOCK - strange) * drift.log_loss, axis=0)
    reserves = np.array([drift.reserve(images) for images in range(0, blocks * BLOCK, BLOCK)])
    stakes = np.log(-np.diff(reserves, prepend=1.0) / BETS)[:, None]
    won = growth + np.logaddexp.accumulate(stakes - np.vstack([np.zeros(BETS), growth[:-1]]), axis=0)
    return np.logaddexp(np.logaddexp.reduce(won, axis=1), np.log(reserves))


def test_the_closed_form_that_these_tests_use_is_what_the_alarm_computes() -> None:
    rejected = stream(np.random.default_rng(4), 0.96, 50 * BLOCK, 0.02)
    drift = Drift(ALPHA)
    found = [observed(drift, block).log_e_value for block in rejected.reshape(50, BLOCK)]
    np.testing.assert_allclose(evidence(rejected), found)


def delays(images: int, ood_ratio: float, clean_before: int = 0, runs: int = 40) -> list[float]:
    """Images from when OOD begins to the alarm, for each run with a calibration set of its own; infinite where there was none."""
    found = []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        _, threshold = calibrated(random, 5000)
        drift = observed(Drift(ALPHA), stream(random, threshold, clean_before, 0))
        assert drift.alarmed_at is None
        for request in np.array_split(stream(random, threshold, images, ood_ratio), images // 5):
            drift.observe(request)
        found.append(math.inf if drift.alarmed_at is None else drift.alarmed_at - clean_before)
    return found


def test_a_hundred_thousand_clean_images_raise_the_alarm_in_at_most_one_of_a_hundred_runs() -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        _, threshold = calibrated(random, 5000)
        alarms += evidence(stream(random, threshold, 100_000, 0)).max() >= LOG_ALARM
    assert alarms <= 2


@pytest.mark.parametrize(("ood_ratio", "within"), [(0.05, 2000), (0.1, 400), (0.3, 50)])
def test_the_more_is_ood_the_sooner_the_alarm(ood_ratio: float, within: int) -> None:
    assert np.median(delays(3 * within, ood_ratio)) <= within


@pytest.mark.parametrize(("ood_ratio", "within"), [(0.05, 4500), (0.1, 1000), (0.3, 200)])
def test_a_long_clean_past_does_not_hide_what_comes_after_it(ood_ratio: float, within: int) -> None:
    """One bet for all time would have lost its wealth by now, and need tens of thousands of images to win it back."""
    assert np.median(delays(3 * within, ood_ratio, clean_before=50_000, runs=15)) <= within


def test_when_exactly_alpha_is_rejected_the_wealth_is_fair_at_every_step_and_shrinks_when_less_is() -> None:
    drift = Drift(ALPHA)
    random = np.random.default_rng(1)
    for _ in range(300):
        rejected, accepted = (math.exp(observed(copy.deepcopy(drift), np.array([verdict])).log_e_value) for verdict in (True, False))
        wealth = math.exp(drift.log_e_value)
        assert ALPHA * rejected + (1 - ALPHA) * accepted == pytest.approx(wealth)
        assert rejected > wealth > accepted
        drift.observe(random.random(1) < 0.1)
    assert math.exp(Drift(ALPHA).log_e_value) == pytest.approx(1)


def test_evidence_is_the_same_image_by_image_or_in_batches() -> None:
    rejected = stream(np.random.default_rng(2), 0.96, 1000, 0.01)
    batched, single = Drift(ALPHA), Drift(ALPHA)
    for batch in np.array_split(rejected, 37):
        batched.observe(batch)
    for verdict in rejected:
        single.observe(np.array([verdict]))
    assert batched.log_e_value == pytest.approx(single.log_e_value)
    assert (batched.images, batched.rejected) == (single.images, single.rejected) == (1000, rejected.sum())


def test_the_alarm_stays_when_the_traffic_becomes_clean_again() -> None:
    drift = observed(Drift(ALPHA), np.ones(10, np.bool_))
    assert drift.alarmed_at is not None
    alarmed_at = drift.alarmed_at
    drift.observe(np.zeros(100_000, np.bool_))
    assert drift.log_e_value < LOG_ALARM
    assert drift.alarmed_at == alarmed_at


def test_averaging_the_e_values_of_replicas_that_share_a_calibration_set_keeps_the_promise() -> None:
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(100):
        _, threshold = calibrated(random, 5000)
        replicas = [evidence(stream(random, threshold, 25_000, 0)) for _ in range(4)]
        alarms += np.exp(replicas).mean(axis=0).max() >= 100
    assert alarms <= 1


def test_why_the_alarm_does_not_bet_on_p_values() -> None:
    """They are uniform only on average over calibration sets. Given one, a martingale in time finds its error, and calls it drift."""
    fair = fixed = ours = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        calibration, threshold = calibrated(random, 1000)
        scores = random.random(20_000, np.float32)
        fixed += naive_evidence(p_values(calibration, scores)).max() >= LOG_ALARM
        fair += naive_evidence(1 - random.random(20_000)).max() >= LOG_ALARM
        ours += evidence(scores > threshold).max() >= LOG_ALARM
    assert fair <= 2
    assert ours <= 2
    # Nominally at most one run in a hundred; it is one in four, and more the longer one waits.
    assert fixed >= 5


def windows(ood_ratio: float, runs: int, images: int = 2000, n: int = 5000) -> list[tuple[float, float]]:
    """Estimate and standard error of the share of OOD, on runs whose OOD scores lie above all ID scores."""
    found = []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        calibration, _ = calibrated(random, n)
        scores = random.random(images, np.float32)
        scores[: round(images * ood_ratio)] = 2
        prevalence = Prevalence(n, images)
        prevalence.observe(p_values(calibration, scores))
        share = prevalence.estimate()
        found.append((share.ratio, share.standard_error))
    return found


@pytest.mark.parametrize("truth", [0.1, 0.3])
def test_the_share_of_ood_is_found_within_three_points_where_the_score_separates(truth: float) -> None:
    ratios = [ratio for ratio, _ in windows(truth, 200)]
    assert np.mean([abs(ratio - truth) <= 0.03 for ratio in ratios]) >= 0.98
    assert np.mean(ratios) == pytest.approx(truth, abs=0.005)


@pytest.mark.parametrize("truth", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("n", [300, 5000])
def test_the_share_of_ood_is_above_the_truth_by_no_more_than_its_error(truth: float, n: int) -> None:
    over = [(ratio - truth) / error for ratio, error in windows(truth, 200, n=n)]
    assert max(over) <= 4
    assert np.mean([excess > 2 for excess in over]) <= 0.05


@pytest.mark.parametrize("truth", [0.0, 0.05, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("images", [1, 20, 200, 2000])
@pytest.mark.parametrize(("n", "confidence"), [(50, 0.99), (1000, 0.998), (5000, 0.998)])
def test_what_the_share_of_ood_is_at_least_exceeds_the_truth_no_more_often_than_said(n: int, confidence: float, images: int, truth: float) -> None:
    """By the exact distribution of usual p-values, over calibration sets and windows, where no OOD image has one."""
    good = round(images * (1 - truth))
    counts = np.arange(good + 1)
    chances = np.array([1.0])
    if good:
        # A p-value is (1 + calibration images at least as strange) / (n + 1): above SPLIT from so many on.
        strange = math.floor(SPLIT * (n + 1) - 1 + 1e-9) + 1
        chances = betabinom(good, n + 1 - strange, strange).pmf(counts)
    exceeded = []
    for count in counts:
        prevalence = Prevalence(n, images)
        prevalence.usual.extend([True] * int(count) + [False] * (images - int(count)))
        prevalence.count = int(count)
        exceeded.append(prevalence.estimate().lower > 1 - good / images + 1e-9)
    assert chances[exceeded].sum() <= 1 - confidence


def test_the_share_of_ood_at_least_tells_strangers_from_noise() -> None:
    prevalence = Prevalence(5000, 2000)
    assert math.isnan(prevalence.estimate().lower)
    prevalence.observe(np.linspace(1, 0.0005, 2000))
    assert prevalence.estimate().lower == 0
    prevalence.observe([0.001] * 200)
    assert 0.05 < prevalence.estimate().lower < prevalence.estimate().ratio


def test_only_the_latest_images_are_in_the_window() -> None:
    prevalence = Prevalence(5000, 100)
    prevalence.observe(np.full(500, 0.001))
    assert prevalence.estimate().ratio > 0.9
    prevalence.observe(np.linspace(0.01, 1, 100))
    assert (prevalence.estimate().ratio, prevalence.estimate().images) == (pytest.approx(0, abs=0.02), 100)


def test_windows_of_several_versions_count_as_one_and_none_as_unknown() -> None:
    one, other = Prevalence(5000, 100), Prevalence(5000, 300)
    assert math.isnan(estimate([one, other]).ratio)
    one.observe(np.full(100, 0.001))
    other.observe(np.full(300, 0.9))
    both = Prevalence(5000, 400)
    both.observe(np.array([0.001] * 100 + [0.9] * 300))
    assert estimate([one, other]) == both.estimate()
