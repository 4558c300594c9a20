"""Evaluates scores as OpenOOD v1.5 does, on whatever computed them: cached features here, the exported graph in `export`."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from service.bundle.decision import STANDARD_ALPHAS, Guarantee, TooFewCalibrationImages, open_gate
from service.bundle.evaluation import Evaluation, OodSet, OperatingPoint, PostprocessorEvaluation
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.data import load
from training.features import BATCH, FeatureCache
from training.metrics import accuracy, expected_calibration_error, mean_separation, separation
from training.parts import Parts, open_parts
from training.postprocessors import EVALUATED_ONLY, REGISTRY, Outputs, Postprocessor
from training.probabilities import Probabilities
from training.sources import Source

Array = NDArray[Any]
COLUMNS = 10


@dataclass(frozen=True)
class Fitted:
    """All chosen scores and the probabilities, fitted, with the features that were used for it."""

    postprocessors: Mapping[str, Postprocessor]
    probabilities: Probabilities
    validation: Outputs


def fit(trained: Trained, parts: Parts, cache: FeatureCache, keys: Sequence[str]) -> Fitted:
    """Fits scores on the run's own training and validation parts; the calibration part stays unseen."""
    for key in keys:
        if key not in REGISTRY:
            raise TrainingError(f"post-processor {key!r} is not known; known are {', '.join((*REGISTRY, *EVALUATED_ONLY))}")
    if parts.train.classes != trained.classes:
        raise TrainingError(f"{trained.recipe.data} has other classes than the network was trained on")
    train, validation = cache.outputs("train", parts.train), cache.outputs("validation", parts.validation)
    head = trained.network.head
    postprocessors = {key: REGISTRY[key]() for key in keys}
    for key, postprocessor in postprocessors.items():
        try:
            postprocessor.fit(train, validation, head)
        except (ValueError, RuntimeError) as exc:  # torch's LinAlgError is a RuntimeError
            raise TrainingError(f"{key} cannot be fitted: {exc}") from None
    probabilities = Probabilities(trained.recipe.loss)
    probabilities.fit(validation, head)
    return Fitted(postprocessors, probabilities, validation)


@torch.inference_mode()
def score(postprocessor: Postprocessor, outputs: Outputs) -> Array:
    """Scores (N,) of cached features, a chunk at a time."""
    chunks = zip(outputs.features.split(4096), outputs.logits.split(4096), strict=True)
    scores: Array = torch.cat([postprocessor(features, logits) for features, logits in chunks]).numpy()
    return scores


def score_pictures(trained: Trained, source: Source, what: str, keys: Sequence[str]) -> dict[str, Array]:
    """Scores (N,) that need the pictures themselves: nothing of a set is read if there are none."""
    if not keys:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = trained.network.eval().to(device)
    pictures = load(source, trained.recipe.input, what, trained.recipe.skip_unreadable)
    scores = {key: EVALUATED_ONLY[key]() for key in keys}
    found: dict[str, list[torch.Tensor]] = {key: [] for key in keys}
    order = torch.arange(len(pictures)).split(BATCH)
    for images, _ in tqdm(pictures.batches(order), f"{', '.join(keys)} on {what}", len(order), leave=False, disable=None):
        for key in keys:
            found[key].append(scores[key](network, images.to(device)).cpu())
    network.cpu()
    return {key: torch.cat(parts).numpy() for key, parts in found.items()}


def summarise(
    id_scores: Mapping[str, Array], ood_scores: Mapping[str, Mapping[str, Array]], ood_sets: Mapping[str, OodSet]
) -> dict[str, PostprocessorEvaluation]:
    """Separation per score and set, and the unweighted means of near and far. ood_scores: set -> score -> (N,)."""
    found = {}
    for key, inside in id_scores.items():
        sets = {name: separation(inside, scores[key]) for name, scores in ood_scores.items()}
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


def evaluate(run: Path, trained: Trained, targets: Targets, keys: Sequence[str]) -> Evaluation:
    """Every score of one run on every set, from features that are computed once and kept."""
    cache = FeatureCache(run, trained)
    on_pictures = [key for key in keys if key in EVALUATED_ONLY]
    fitted = fit(trained, open_parts(trained.recipe), cache, [key for key in keys if key not in EVALUATED_ONLY])
    inside = cache.outputs("ID test", targets.id_test)
    ood = {name: cache.outputs(name, source) for name, source in targets.sources.items()}
    with torch.inference_mode():
        served, raw = fitted.probabilities(inside.logits).numpy(), inside.logits.softmax(dim=1).numpy()

    def every(name: str, source: Source, outputs: Outputs) -> dict[str, Array]:
        found = {key: score(postprocessor, outputs) for key, postprocessor in fitted.postprocessors.items()}
        found |= score_pictures(trained, source, name, on_pictures)
        return {key: found[key] for key in keys}

    id_scores = every("ID test", targets.id_test, inside)
    table = summarise(id_scores, {name: every(name, targets.sources[name], outputs) for name, outputs in ood.items()}, targets.ood_sets)
    return conclude(targets, inside.labels.numpy(), served, raw, table)


def conclude(targets: Targets, labels: Array, served: Array, raw: Array, table: Mapping[str, PostprocessorEvaluation]) -> Evaluation:
    """Labels (N,), probabilities as served and softmax(f), both (N, C), and the scores' table, as one evaluation."""
    return Evaluation(
        id_data=targets.id_name,
        id_images=len(labels),
        accuracy=accuracy(served, labels),
        ece=expected_calibration_error(served, labels),
        ece_raw=expected_calibration_error(raw, labels),
        ood_sets=targets.ood_sets,
        postprocessors=dict(table),
    )


def print_evaluation(evaluation: Evaluation) -> None:
    """The table on the terminal: AUROC per set, the means, and both FPR95s of the far sets."""
    console = Console()
    if console.width < 110:  # a pipe has no width of its own, and numbers must not be cut
        console = Console(width=110)
    console.print(
        f"{evaluation.id_images} ID pictures: accuracy {evaluation.accuracy:.2%}, "
        f"ECE {evaluation.ece:.2%} as served, {evaluation.ece_raw:.2%} of softmax(f)"
    )
    incomplete = {name for name, about in evaluation.ood_sets.items() if about.expected not in (None, about.images)}
    partial_groups = {evaluation.ood_sets[name].group for name in incomplete}
    every = list(evaluation.postprocessors)
    for keys in (every[i : i + COLUMNS] for i in range(0, len(every), COLUMNS)):
        console.print(table_of(evaluation, keys, incomplete, partial_groups))


def table_of(evaluation: Evaluation, keys: Sequence[str], incomplete: Set[str], partial_groups: Set[str]) -> Table:
    table = Table(title="AUROC in %, OOD positive", caption="* a partial set, or a mean that lacks sets of the benchmark", box=SIMPLE_HEAD)
    table.add_column("OOD set")
    for key in keys:
        table.add_column(key, justify="right")
    for name, about in evaluation.ood_sets.items():
        if about.images:
            cells = [percent(evaluation.postprocessors[key].sets[name].auroc) for key in keys]
            table.add_row(f"{name}{'*' * (name in incomplete)} ({about.group})", *cells)
    table.add_section()
    for group in ("near", "far"):
        for label, metric in (("mean", "auroc"), ("FPR95, OOD caught", "fpr95_ood_caught"), ("FPR95, ID kept", "fpr95_id_kept")):
            means = [getattr(evaluation.postprocessors[key], group) for key in keys]
            cells = [percent(getattr(mean, metric) if mean else None) for mean in means]
            table.add_row(f"{group}{'*' * (group in partial_groups)} {label}", *cells)
    return table


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f}"
