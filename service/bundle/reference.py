"""What an image's score is held against: the calibration images of all classes, or those of the class predicted for it (Mondrian).

A class has a threshold of its own where the manifest lists it and its calibration images suffice for the promise asked. All others share one,
from their own images alone, not from everybody's: so every image lies in one calibrated group, and what holds in each, on average, holds for all.
Vovk, Conditional validity of inductive conformal predictors, ACML 2012, arXiv 1209.2673.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """Of all classes together; of those with a threshold of their own, by class id; and of the rest, which is all where none has."""

    pooled: Reference
    own: Mapping[int, Reference] = field(default_factory=dict)
    rest: Reference | None = None

    @property
    def shared(self) -> Reference:
        """What decides over an image whose class has no threshold of its own."""
        return self.rest or self.pooled

    @property
    def expected_false_reject_ratio(self) -> float:
        """Share of all ID images that is rejected on average: by the threshold of each group, as many of it as were predicted to be."""
        if not self.own:
            return self.pooled.gate.expected_false_reject_ratio
        groups = [*self.own.values(), *([self.rest] if self.rest else [])]
        rejected = sum(len(group.calibration) * group.gate.expected_false_reject_ratio for group in groups)
        return rejected / sum(len(group.calibration) for group in groups)


def open_references(bundle: Bundle, column: int, alpha: float, guarantee: Guarantee) -> References:
    """The references of one post-processor at one alpha. Raises TooFewCalibrationImages when not even all images suffice."""
    info = bundle.manifest.calibration
    scores, predicted = bundle.calibration.scores[column], bundle.calibration.predicted[column]

    def reference(calibration: Scores) -> Reference:
        return Reference(calibration, open_gate(calibration, alpha, guarantee, info.delta))

    pooled, needed = reference(scores), images_needed(alpha, guarantee, info.delta)
    listed = {class_id: (info.per_class or {}).get(name) for class_id, name in enumerate(bundle.manifest.classes)}
    counts = {class_id: entry.images for class_id, entry in listed.items() if entry and entry.threshold == "own" and entry.images >= needed}
    rest = len(scores) - sum(counts.values())
    # The rest too needs enough images: those of the smallest classes join it. It has no need where every class has its own.
    while len(counts) < len(listed) and counts and rest < needed:
        smallest = min(counts, key=counts.__getitem__)
        rest += counts.pop(smallest)
    if not counts:
        return References(pooled)
    # Views of one array, however many alphas are asked for.
    own = {class_id: reference(bundle.calibration.by_class[column][class_id]) for class_id in counts}
    if len(counts) == len(listed):
        return References(pooled, own)
    others = np.ones(len(listed), np.bool_)
    others[list(counts)] = False
    return References(pooled, own, reference(scores[others[predicted]]))


def hold_against(references: References, predicted: NDArray[np.integer], scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted classes and raw scores, both (N,) -> p-values and thresholds, both (N,)."""
    shared = references.shared
    values = p_values(shared.calibration, scores)
    thresholds = np.array([shared.gate.threshold] * len(scores))
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
