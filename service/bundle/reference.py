"""What an image's score is held against: the calibration images of all classes, or those of the class predicted for it (Mondrian).

A class has a threshold of its own where the manifest lists it and its calibration images suffice for the promise asked; what then holds
for all pictures together also holds for those of this class. Every other class falls back to the pooled threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from service.bundle.calibration import ClassCalibration
from service.bundle.decision import Gate, Guarantee, Scores, images_needed, open_gate, p_values
from service.bundle.manifest import Bundle


@dataclass(frozen=True)
class Reference:
    """Calibration scores (n,), ascending, and the gate that follows from them."""

    calibration: Scores = field(repr=False)
    gate: Gate


@dataclass(frozen=True)
class References:
    """The pooled reference, and those of the classes that have their own, by class id."""

    pooled: Reference
    own: Mapping[int, Reference]


def open_references(bundle: Bundle, column: int, alpha: float, guarantee: Guarantee) -> References:
    """The references of one post-processor at one alpha. Raises TooFewCalibrationImages when not even all images suffice."""
    info = bundle.manifest.calibration
    scores, predicted = bundle.calibration.scores[column], bundle.calibration.predicted[column]
    pooled = Reference(scores, open_gate(scores, alpha, guarantee, info.delta))
    needed = images_needed(alpha, guarantee, info.delta)
    own = {}
    for class_id, name in enumerate(bundle.manifest.classes):
        entry = (info.per_class or {}).get(name)
        if entry is not None and entry.threshold == "own" and entry.images >= needed:
            # Views of one array, however many alphas are asked for.
            calibration = bundle.calibration.by_class[column][class_id]
            own[class_id] = Reference(calibration, open_gate(calibration, alpha, guarantee, info.delta))
    if own:
        expected = expected_false_reject_ratio(predicted, scores, pooled.gate.threshold, own)
        pooled = replace(pooled, gate=replace(pooled.gate, expected_false_reject_ratio=expected))
    return References(pooled, own)


def expected_false_reject_ratio(predicted: NDArray[np.int32], scores: Scores, threshold: float, own: Mapping[int, Reference]) -> float:
    """Share of all ID images that is rejected on average: each class by its own threshold, the rest by the pooled one."""
    rest = ~np.isin(predicted, list(own)) & (scores >= threshold)
    rejected = sum(len(entry.calibration) * entry.gate.expected_false_reject_ratio for entry in own.values())
    return float((rejected + rest.sum()) / len(scores))


def hold_against(references: References, predicted: NDArray[np.integer], scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted classes and raw scores, both (N,) -> p-values and thresholds, both (N,)."""
    values = p_values(references.pooled.calibration, scores)
    thresholds = np.array([references.pooled.gate.threshold] * len(scores))
    for class_id in references.own.keys() & set(predicted.tolist()):
        rows, own = predicted == class_id, references.own[class_id]
        values[rows] = p_values(own.calibration, scores[rows])
        thresholds[rows] = own.gate.threshold
    return values, thresholds


def count_classes(predicted: NDArray[np.integer], classes: tuple[str, ...], needed: int) -> dict[str, ClassCalibration]:
    """What the manifest lists: of each class how many calibration images (n,) there are, and whether they suffice for a threshold."""
    counts = np.bincount(predicted, minlength=len(classes)).tolist()
    return {
        name: ClassCalibration(images=count, threshold="own" if count >= needed else "pooled") for name, count in zip(classes, counts, strict=True)
    }
