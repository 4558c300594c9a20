"""Evaluates scores as OpenOOD v1.5 does, on whatever computed them: cached features here, the exported graph in `export`."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from service.bundle.decision import STANDARD_ALPHAS, Guarantee, TooFewCalibrationImages, open_gate
from service.bundle.evaluation import (
    Evaluation,
    FullSpectrum,
    Hyperparameter,
    OodSet,
    OperatingPoint,
    PostprocessorEvaluation,
    Search,
)
from training.benchmarks import Targets, few
from training.boundary import scaled_logits, weight_distances
from training.checkpoint import Trained
from training.config import TrainingError
from training.data import cores, load
from training.features import BATCH, FeatureCache
from training.metrics import accuracy, expected_calibration_error, mean_separation, separation
from training.parts import Parts, open_parts
from training.postprocessors import EVALUATED_ONLY, REGISTRY, GradientScore, Outputs, Postprocessor
from training.probabilities import Probabilities
from training.sources import Source

Array = NDArray[Any]


Chosen = Mapping[str, dict[str, Hyperparameter]]


@dataclass(frozen=True)
class Answers:
    """What was computed for one set: probabilities as served (N, C), and per score (N,)."""

    labels: Array
    probabilities: Array
    scores: Mapping[str, Array]


@dataclass(frozen=True)
class Fitted:
    """All chosen scores and the probabilities, fitted, with the features that were used for it."""

    postprocessors: Mapping[str, Postprocessor]
    probabilities: Probabilities
    validation: Outputs

    @torch.inference_mode()
    def answers(self, outputs: Outputs) -> Answers:
        """Of one set, from its features."""
        served = self.probabilities(outputs.logits).numpy()
        return Answers(outputs.labels.numpy(), served, {key: score(postprocessor, outputs) for key, postprocessor in self.postprocessors.items()})


def fitting_parts(trained: Trained, parts: Parts, cache: FeatureCache) -> tuple[Outputs, Outputs]:
    """What scores are fitted on: the run's own training and validation parts; the calibration part stays unseen."""
    if parts.train.classes != trained.classes:
        raise TrainingError(f"{trained.recipe.data} has other classes than the network was trained on")
    return cache.outputs("train", parts.train), cache.outputs("validation", parts.validation)


def fit(trained: Trained, parts: Parts, cache: FeatureCache, keys: Sequence[str], chosen: Chosen | None = None) -> Fitted:
    """Fits scores, each with the hyper-parameters that were chosen for it, else with its defaults."""
    check_known(keys)
    train, validation = fitting_parts(trained, parts, cache)
    head = trained.network.head
    postprocessors = {key: REGISTRY[key](**(chosen or {}).get(key, {})) for key in keys}
    for key, postprocessor in postprocessors.items():
        try:
            postprocessor.fit(train, validation, head)
        except (ValueError, RuntimeError) as exc:  # torch's LinAlgError is a RuntimeError
            raise TrainingError(f"{key} cannot be fitted: {exc}") from None
    probabilities = Probabilities(trained.recipe.loss)
    probabilities.fit(validation, head)
    return Fitted(postprocessors, probabilities, validation)


def check_answers(trained: Trained, id_test: Source, name: str) -> None:
    """Refuses an ID test set whose labels do not mean what the network's classes mean; says so where their names do not tell."""
    ours, theirs = trained.classes, id_test.classes
    if len(theirs) > len(ours) or id_test.labels.max(initial=0) >= len(ours):
        count = max(len(theirs), int(id_test.labels.max(initial=0)) + 1)
        raise TrainingError(f"the network has {len(ours)} classes, {name} has {count}")
    if theirs in ((), ours):
        return
    if set(ours) & set(theirs):
        raise TrainingError(f"the network's classes are {few(ours)}; those of {name} are {few(theirs)}")
    print(f"the network's classes are called {few(ours)}, those of {name} {few(theirs)}: taken as the same, in this order")


def check_known(keys: Sequence[str]) -> None:
    for key in keys:
        if key not in (*REGISTRY, *EVALUATED_ONLY):
            raise TrainingError(f"post-processor {key!r} is not known; known are {', '.join((*REGISTRY, *EVALUATED_ONLY))}")


@torch.inference_mode()
def score(postprocessor: Postprocessor, outputs: Outputs) -> Array:
    """Scores (N,) of cached features, a chunk at a time."""
    chunks = zip(outputs.features.split(4096), outputs.logits.split(4096), strict=True)
    scores: Array = torch.cat([postprocessor(features, logits) for features, logits in chunks]).numpy()
    return scores


def score_pictures(trained: Trained, source: Source, what: str, scores: Mapping[str, GradientScore]) -> dict[str, Array]:
    """Scores (N,) that need the pictures themselves: nothing of a set is read if there are none."""
    if not scores:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = trained.network.eval().to(device)
    pictures = load(source, trained.recipe.input, what, trained.recipe.skip_unreadable)
    found: dict[str, list[torch.Tensor]] = {key: [] for key in scores}
    order = torch.arange(len(pictures)).split(BATCH)
    for images, _ in tqdm(pictures.batches(order), f"{', '.join(scores)} on {what}", len(order), leave=False, disable=None):
        for key, entry in scores.items():
            found[key].append(entry(network, images.to(device)).cpu())
    network.cpu()
    return {key: torch.cat(parts).numpy() for key, parts in found.items()}


def summarise(
    id_scores: Mapping[str, Array], ood_scores: Mapping[str, Mapping[str, Array]], ood_sets: Mapping[str, OodSet]
) -> dict[str, PostprocessorEvaluation]:
    """Separation per score and set, and the unweighted means of near and far. ood_scores: set -> score -> (N,)."""
    found = {}
    with ThreadPoolExecutor(cores()) as pool:  # most of it is sorting, which numpy does without Python's lock
        coming = {
            (key, name): pool.submit(separation, inside, scores[key]) for key, inside in id_scores.items() for name, scores in ood_scores.items()
        }
    for key in id_scores:
        sets = {name: coming[key, name].result() for name in ood_scores}
        groups = {group: mean_separation(sets[name] for name in sets if ood_sets[name].group == group) for group in ("near", "far")}
        found[key] = PostprocessorEvaluation(sets=sets, near=groups["near"], far=groups["far"])
    return found


def operating_points(calibration: Array, inside: Array, ood: Mapping[str, Array], delta: float) -> tuple[OperatingPoint, ...]:
    """What each standard threshold promises and what it did on test pictures; those that n cannot promise are left out."""
    points = []
    for alpha in STANDARD_ALPHAS:
        for guarantee in get_args(Guarantee):
            try:
                gate = open_gate(calibration, alpha, guarantee, delta)
            except TooFewCalibrationImages:
                continue
            points.append(
                OperatingPoint(
                    alpha=alpha,
                    guarantee=gate.guarantee,
                    threshold=gate.threshold,
                    expected_false_reject_ratio=gate.expected_false_reject_ratio,
                    measured_false_reject_ratio=float((inside > gate.threshold).mean()),
                    ood_caught_ratio={name: float((scores > gate.threshold).mean()) for name, scores in ood.items()},
                )
            )
    return tuple(points)


def full_spectrum(
    targets: Targets, inside: Answers, shifted: Mapping[str, Answers], ood_scores: Mapping[str, Mapping[str, Array]]
) -> FullSpectrum | None:
    """As OpenOOD does it: the scores of shifted sets join those of the ID test set before each metric. None without any such set."""
    if not shifted:
        return None
    together = [inside, *shifted.values()]
    scores = {key: np.concatenate([answers.scores[key] for answers in together]) for key in inside.scores}
    right = [answers.probabilities.argmax(axis=1) == answers.labels for answers in together]
    measured = {name: {"accuracy": accuracy(answers.probabilities, answers.labels)} for name, answers in shifted.items()}
    return FullSpectrum(
        accuracy=float(np.concatenate(right).mean()),
        shifted_sets={name: about.model_copy(update=measured.get(name, {})) for name, about in targets.shifted_sets.items()},
        postprocessors=summarise(scores, ood_scores, targets.ood_sets),
    )


def evaluate(run: Path, trained: Trained, targets: Targets, keys: Sequence[str], found: Search | None = None) -> Evaluation:
    """Every score of one run on every set, from features that are computed once and kept.

    found: the search whose choices the scores are fitted with.
    """
    check_answers(trained, targets.id_test, targets.id_name)
    cache, chosen = FeatureCache(run, trained), choices(found)
    gradients = {key: EVALUATED_ONLY[key](**chosen.get(key, {})) for key in keys if key in EVALUATED_ONLY}
    fitted = fit(trained, open_parts(trained.recipe), cache, [key for key in keys if key not in gradients], chosen)

    def answers(name: str, source: Source) -> Answers:
        found = fitted.answers(cache.outputs(name, source))
        scores = {**found.scores, **score_pictures(trained, source, name, gradients)}
        return dataclasses.replace(found, scores={key: scores[key] for key in keys})

    inside = answers("ID test", targets.id_test)
    ood_scores = {name: answers(name, source).scores for name, source in targets.sources.items()}
    shifted = {name: answers(name, source) for name, source in targets.shifted.items()}
    table = summarise(inside.scores, ood_scores, targets.ood_sets)
    logits, spectrum = cache.outputs("ID test", targets.id_test).logits, full_spectrum(targets, inside, shifted, ood_scores)
    return conclude(targets, inside.labels, inside.probabilities, logits, trained.network.head, table, spectrum, found)


def choices(found: Search | None) -> dict[str, dict[str, Hyperparameter]]:
    return {key: choice.hyperparameters for key, choice in found.choices.items()} if found else {}


def conclude(
    targets: Targets,
    labels: Array,
    served: Array,
    logits: torch.Tensor,
    head: nn.Linear,
    table: Mapping[str, PostprocessorEvaluation],
    spectrum: FullSpectrum | None = None,
    found: Search | None = None,
) -> Evaluation:
    """Labels (N,), probabilities as served and logits, both (N, C), and the scores' table, as one evaluation."""
    with torch.inference_mode():
        raw, scaled = (kind.softmax(dim=1).numpy() for kind in (logits, scaled_logits(logits, weight_distances(head.weight))))
    return Evaluation(
        id_data=targets.id_name,
        id_images=len(labels),
        id_expected=targets.id_expected,
        accuracy=accuracy(served, labels),
        ece=expected_calibration_error(served, labels),
        ece_raw=expected_calibration_error(raw, labels),
        ece_scaled=expected_calibration_error(scaled, labels),
        ood_sets=targets.ood_sets,
        postprocessors=dict(table),
        full_spectrum=spectrum,
        search=found,
    )
