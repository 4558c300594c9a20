"""Thresholds by predicted class: every image lies in one calibrated group."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.bundle.calibration import Calibration
from service.bundle.decision import images_needed, open_gate
from service.bundle.manifest import Bundle
from service.bundle.reference import References, count_classes, hold_against, open_references

ALPHA, DELTA = 0.05, 0.05
NEEDED = images_needed(ALPHA, "pac", DELTA)


def opened(counts: dict[str, int], shift: dict[str, float], seed: int = 0, guarantee: Any = "pac") -> tuple[References, Calibration]:
    """Of a bundle with so many calibration images of each predicted class, whose scores are normal about `shift`."""
    random = np.random.default_rng(seed)
    classes, predicted = tuple(counts), np.repeat(np.arange(len(counts)), list(counts.values()))
    scores = random.standard_normal(len(predicted)) + np.array([shift.get(name, 0) for name in classes])[predicted]
    order = scores.argsort()
    calibration = Calibration(scores[order][None].astype(np.float32), predicted[order][None].astype(np.int32))
    about = SimpleNamespace(delta=DELTA, per_class=count_classes(predicted, classes, images_needed(ALPHA, guarantee, DELTA)))
    bundle = SimpleNamespace(manifest=SimpleNamespace(classes=classes, calibration=about), calibration=calibration)
    return open_references(cast(Bundle, bundle), 0, ALPHA, guarantee), calibration


def test_classes_without_a_threshold_of_their_own_share_one_from_their_images_alone() -> None:
    found, calibration = opened({"a": 500, "b": 400, "c": 50, "d": 40}, {"c": 3})
    scores, predicted = calibration.scores[0], calibration.predicted[0]
    assert list(found.own) == [0, 1]
    assert found.shared.gate == open_gate(scores[predicted >= 2], ALPHA, "pac", DELTA)
    groups = [found.own[0], found.own[1], found.shared]
    assert sum(len(group.calibration) for group in groups) == len(scores)
    assert found.expected_false_reject_ratio == pytest.approx(
        sum(len(group.calibration) * group.gate.expected_false_reject_ratio for group in groups) / len(scores)
    )
    values, thresholds = hold_against(found, np.array([0, 2, 3]), np.array([9, 9, 9], np.float32))
    assert values.tolist() == [1 / 501, 1 / 91, 1 / 91]
    assert thresholds.tolist() == [found.own[0].gate.threshold, found.shared.gate.threshold, found.shared.gate.threshold]


def test_the_smallest_classes_join_a_rest_that_has_too_few_images() -> None:
    found, _ = opened({"a": 500, "b": NEEDED, "c": NEEDED + 5, "d": 0}, {})
    assert list(found.own) == [0, 2], "b joins d, of which there is no image, but which may be predicted"
    assert len(found.shared.calibration) == NEEDED
    found, _ = opened({"a": NEEDED, "b": 1}, {})
    assert (found.own, found.shared) == ({}, found.pooled)


def test_where_every_class_has_its_own_there_is_no_rest() -> None:
    found, _ = opened({"a": 100, "b": 100}, {})
    assert (list(found.own), found.rest) == ([0, 1], None)
    assert found.expected_false_reject_ratio == found.own[0].gate.expected_false_reject_ratio


@pytest.mark.parametrize(("guarantee", "most"), [("pac", 0.05), ("marginal", 0.5)])
def test_a_rare_strange_class_costs_the_stream_no_more_than_alpha(guarantee: str, most: float) -> None:
    """Against everybody's threshold it would be rejected beside all that the others may lose."""
    counts, shift, above = {"a": 475, "b": 475, "rare": 50}, {"rare": 3.0}, 0
    random = np.random.default_rng(1)
    predicted = np.repeat(np.arange(3), [19_000, 19_000, 2000])
    for seed in range(100):
        found, _ = opened(counts, shift, seed, guarantee)
        scores = (random.standard_normal(len(predicted)) + np.array([0, 0, 3])[predicted]).astype(np.float32)
        above += (scores > hold_against(found, predicted, scores)[1]).mean() > ALPHA
    assert above / 100 <= most + 0.1


@pytest.mark.parametrize("n", [169, 339])
def test_without_thresholds_by_class_what_is_expected_is_k_of_n_and_one_to_the_last_digit(n: int) -> None:
    found, _ = opened({"a": n, "b": 0}, {}, guarantee="marginal")
    assert found.expected_false_reject_ratio == found.pooled.gate.expected_false_reject_ratio <= ALPHA
