"""Every score of a run on every picture: what a report draws, beside the evaluation that sums it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.evaluation import Evaluation, Search
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.evaluate import Fitted, check_answers, choices, conclude, fit, full_spectrum, summarise
from training.features import FeatureCache
from training.lineage import trained_parts
from training.parts import check_apart
from training.postprocessors import EVALUATED_ONLY, Outputs

Array = NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """Outputs, and per score the scores of ID (N,), OOD (M,) and shifted ID pictures (K,) and the sorted ones of calibration pictures (n,)."""

    trained: Trained
    targets: Targets
    fitted: Fitted
    inside: Outputs
    outside: Mapping[str, Outputs]
    id_scores: Mapping[str, Array]
    ood_scores: Mapping[str, Mapping[str, Array]]
    shifted_scores: Mapping[str, Mapping[str, Array]]
    calibration: Mapping[str, Array]
    evaluation: Evaluation

    @property
    def wrong(self) -> Array:
        """Which ID test pictures are classified wrongly, (N,)."""
        return (self.inside.logits.argmax(dim=1) != self.inside.labels).numpy()


def measure(run: Path, trained: Trained, targets: Targets, keys: Sequence[str], found: Search | None = None) -> Measured:
    """Takes seconds after an evaluation, whose features it finds. Without a calibration part, n is 0. found: as for `evaluate`."""
    for key in keys:
        if key in EVALUATED_ONLY:
            raise TrainingError(f"{key} needs the gradient with respect to the picture, a report is drawn from features: it can only be evaluated")
    if not targets.sources:
        raise TrainingError("there is no OOD set to report on; give --benchmark, --near or --far")
    check_answers(trained, targets.id_test, targets.id_name)
    cache, parts = FeatureCache(run, trained), trained_parts(trained)
    check_apart(targets.id_test, parts.calibration, "in the ID test set and in the calibration set")
    fitted = fit(trained, parts, cache, keys, choices(found))
    inside = cache.outputs("ID test", targets.id_test)
    outside = {name: cache.outputs(name, source) for name, source in targets.sources.items()}
    answers = fitted.answers(inside)
    ood_scores = {name: fitted.answers(outputs).scores for name, outputs in outside.items()}
    shifted = {name: fitted.answers(cache.outputs(name, source)) for name, source in targets.shifted.items()}
    calibration = dict.fromkeys(keys, np.empty(0, np.float32))
    if len(parts.calibration):
        held_out = cache.outputs("calibration", parts.calibration)
        calibration = {key: np.sort(scores) for key, scores in fitted.answers(held_out).scores.items()}
    table, spectrum = summarise(answers.scores, ood_scores, targets.ood_sets), full_spectrum(targets, answers, shifted, ood_scores)
    evaluation = conclude(targets, answers.labels, answers.probabilities, inside.logits, trained.network.head, table, spectrum, found)
    shifted_scores = {name: found.scores for name, found in shifted.items()}
    return Measured(trained, targets, fitted, inside, outside, answers.scores, ood_scores, shifted_scores, calibration, evaluation)
