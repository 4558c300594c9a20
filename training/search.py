"""Hyper-parameter search as OpenOOD v1.5 does it (APS): the whole grid of each score, ID validation against OOD validation.

Features are computed once and kept, so a combination costs a fit and some two thousand scores. Nothing is random: the same
features give the same choice, and of equals the first wins, in OpenOOD's order (the first argument changes fastest).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.evaluation import Choice, Search
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.evaluate import check_known, fitting_parts, score, score_pictures
from training.features import FeatureCache
from training.metrics import separation
from training.parts import Parts
from training.postprocessors import EVALUATED_ONLY, REGISTRY

Array = NDArray[Any]


def search(trained: Trained, parts: Parts, cache: FeatureCache, targets: Targets, keys: Sequence[str]) -> Search:
    """The best combination of each score that has a sweep; said aloud. TrainingError without OOD validation pictures."""
    check_known(keys)
    if (ood_validation := targets.ood_validation) is None:
        raise TrainingError("a search needs OOD validation pictures: give --ood-validation, or a --benchmark that has them")
    train, validation = fitting_parts(trained, parts, cache)
    outside = cache.outputs("OOD validation", ood_validation)

    def on_features(key: str, hyperparameters: dict[str, Any]) -> tuple[Array, Array]:
        postprocessor = REGISTRY[key](**hyperparameters)
        postprocessor.fit(train, validation, trained.network.head)
        return score(postprocessor, validation), score(postprocessor, outside)

    def on_pictures(key: str, hyperparameters: dict[str, Any]) -> tuple[Array, Array]:
        entry = {key: EVALUATED_ONLY[key](**hyperparameters)}
        inside = score_pictures(trained, parts.validation, "validation", entry)
        return inside[key], score_pictures(trained, ood_validation, "OOD validation", entry)[key]

    choices = {}
    for key in keys:
        kind, measure = (REGISTRY[key], on_features) if key in REGISTRY else (EVALUATED_ONLY[key], on_pictures)
        if kind.sweep and (choice := choose(key, kind.sweep, measure)):
            choices[key] = choice
    return Search(id_images=len(validation.labels), ood_images=len(outside.labels), choices=choices)


def combinations(sweep: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of a sweep, the first argument changing fastest."""
    names = list(sweep)
    for values in product(*(sweep[name] for name in reversed(names))):
        yield dict(zip(names, reversed(values), strict=True))


def choose(key: str, sweep: Mapping[str, Sequence[Any]], measure: Callable[[str, dict[str, Any]], tuple[Array, Array]]) -> Choice | None:
    """The combination with the highest AUROC, or None where not one can be fitted and gives finite values.

    measure: a score's key and hyper-parameters to its values on ID and on OOD validation pictures.
    """
    best, best_auroc, tried = None, -1.0, 0
    reasons: list[str] = []
    for hyperparameters in combinations(sweep):
        try:
            inside, outside = measure(key, hyperparameters)
        except (ValueError, RuntimeError) as exc:  # a dimension beyond the features', more neighbours than there are
            reasons.append(str(exc))
            continue
        if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
            reasons.append("its values are not finite")
            continue
        tried += 1
        auroc = separation(inside, outside).auroc
        if auroc > best_auroc:
            best, best_auroc = hyperparameters, auroc
    if best is None:
        print(f"{key} keeps its defaults: not one of {len(reasons)} combinations can be used: {'; '.join(dict.fromkeys(reasons))}")
        return None
    values = ", ".join(f"{name} {value}" for name, value in best.items())
    print(f"{key}: {values} (AUROC {best_auroc:.4f}, best of {tried}{f', {len(reasons)} left out' if reasons else ''})")
    return Choice(hyperparameters=best, auroc=best_auroc, tried=tried, left_out=len(reasons))
