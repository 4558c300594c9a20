"""Every score of a run on every picture: what a report draws, beside the evaluation that sums it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.evaluation import Evaluation, Search
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.evaluate import Fitted, check_answers, choices, conclude, fit, score, summarise
from training.features import FeatureCache
from training.parts import open_parts
from training.postprocessors import EVALUATED_ONLY, Outputs

Array = NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """Outputs, and per score the scores of ID (N,) and OOD pictures (M,) and the sorted ones of calibration pictures (n,)."""

    trained: Trained
    targets: Targets
    fitted: Fitted
    inside: Outputs
    outside: Mapping[str, Outputs]
    id_scores: Mapping[str, Array]
    ood_scores: Mapping[str, Mapping[str, Array]]
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
    cache, parts = FeatureCache(run, trained), open_parts(trained.recipe)
    fitted = fit(trained, parts, cache, keys, choices(found))
    scores = fitted.postprocessors
    inside = cache.outputs("ID test", targets.id_test)
    outside = {name: cache.outputs(name, source) for name, source in targets.sources.items()}
    id_scores = {key: score(scores[key], inside) for key in keys}
    ood_scores = {name: {key: score(scores[key], outputs) for key in keys} for name, outputs in outside.items()}
    calibration = dict.fromkeys(keys, np.empty(0, np.float32))
    if len(parts.calibration):
        held_out = cache.outputs("calibration", parts.calibration)
        calibration = {key: np.sort(score(scores[key], held_out)) for key in keys}
    with torch.inference_mode():
        served = fitted.probabilities(inside.logits).numpy()
    table = summarise(id_scores, ood_scores, targets.ood_sets)
    evaluation = conclude(targets, inside.labels.numpy(), served, inside.logits, trained.network.head, table, found=found)
    return Measured(trained, targets, fitted, inside, outside, id_scores, ood_scores, calibration, evaluation)
