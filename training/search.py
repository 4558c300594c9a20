"""Hyper-parameter search as OpenOOD v1.5 does it (APS): the whole grid of each score, ID validation against OOD validation.

Features are computed once and kept, so a combination costs a fit and some two thousand scores. Nothing is random: the same
features give the same choice, and of equals the first wins, in OpenOOD's order (the first argument changes fastest).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from service.bundle.evaluation import Choice, Search
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.evaluate import check_known, fitting_parts, score
from training.features import FeatureCache
from training.metrics import separation
from training.parts import Parts
from training.postprocessors import REGISTRY, Outputs


def search(trained: Trained, parts: Parts, cache: FeatureCache, targets: Targets, keys: Sequence[str]) -> Search:
    """The best combination of each score that has a sweep. TrainingError without OOD validation pictures, or where none can be fitted."""
    check_known(keys)
    if targets.ood_validation is None:
        raise TrainingError("a search needs OOD validation pictures: give --ood-validation, or a --benchmark that has them")
    train, validation = fitting_parts(trained, parts, cache)
    outside = cache.outputs("OOD validation", targets.ood_validation)
    choices = {key: choose(key, trained, train, validation, outside) for key in keys if REGISTRY[key].sweep}
    for key, choice in choices.items():
        values = ", ".join(f"{name} {value}" for name, value in choice.hyperparameters.items())
        left_out = f", {choice.left_out} left out" if choice.left_out else ""
        print(f"{key}: {values} (AUROC {choice.auroc:.4f}, best of {choice.tried}{left_out})")
    return Search(id_images=len(validation.labels), ood_images=len(outside.labels), choices=choices)


def combinations(sweep: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of a sweep, the first argument changing fastest."""
    names = list(sweep)
    for values in product(*(sweep[name] for name in reversed(names))):
        yield dict(zip(names, reversed(values), strict=True))


def choose(key: str, trained: Trained, train: Outputs, validation: Outputs, outside: Outputs) -> Choice:
    """The combination with the highest AUROC; those that cannot be fitted, or give values that are not finite, are left out."""
    best, best_auroc, tried, left_out = None, -1.0, 0, 0
    for hyperparameters in combinations(REGISTRY[key].sweep):
        postprocessor = REGISTRY[key](**hyperparameters)
        try:
            postprocessor.fit(train, validation, trained.network.head)
            inside_scores, outside_scores = score(postprocessor, validation), score(postprocessor, outside)
        except (ValueError, RuntimeError) as exc:  # a dimension beyond the features', more neighbours than there are
            left_out, last = left_out + 1, str(exc)
            continue
        if not (np.isfinite(inside_scores).all() and np.isfinite(outside_scores).all()):
            left_out, last = left_out + 1, "its values are not finite"
            continue
        tried += 1
        auroc = separation(inside_scores, outside_scores).auroc
        if auroc > best_auroc:
            best, best_auroc = hyperparameters, auroc
    if best is None:
        raise TrainingError(f"{key}: not one of {left_out} combinations can be used: {last}")
    return Choice(hyperparameters=best, auroc=best_auroc, tried=tried, left_out=left_out)
