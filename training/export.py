"""Writes a bundle: one graph, calibrated and evaluated by running that very graph in onnxruntime. The manifest comes last."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.calibration import CalibrationInfo
from service.bundle.decision import TooFewCalibrationImages, images_needed, least_alpha, open_gate
from service.bundle.evaluation import Evaluation, Search
from service.bundle.manifest import (
    FORMAT_VERSION,
    BundleError,
    Manifest,
    TrainingInfo,
    find_versions,
    npz,
    sha256,
)
from service.bundle.writing import write_bundle
from training.benchmarks import Targets
from training.checkpoint import Trained
from training.config import TrainingError
from training.data import Pictures
from training.evaluate import Answers, Fitted, check_answers, choices, conclude, fit, full_spectrum, operating_points, summarise
from training.features import FeatureCache
from training.graph import Graph, to_onnx
from training.halves import round_weights
from training.lineage import tell_copies, trained_parts
from training.parts import calibration_data, check_apart
from training.postprocessors import EVALUATED_ONLY, EXPORTED
from training.release import check_parity, check_scores, shuffled_patches
from training.runner import BATCH, GraphRunner
from training.sources import Source

GOLDEN_IMAGES = 32
Array = NDArray[Any]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Export:
    """What is asked of a bundle."""

    name: str
    models_dir: Path = Path("models")
    version: int | None = None
    postprocessors: Sequence[str] = EXPORTED
    default_postprocessor: str = "msp"
    alpha: float = 0.05
    delta: float = 0.05
    precision: Precision = "fp32"


def export(run: Path, trained: Trained, targets: Targets, asked: Export, found: Search | None = None) -> Path:
    """The folder of the new bundle. ReleaseRefused or TrainingError leave nothing behind.

    found: the search whose choices the scores are fitted with.
    """
    folder, manifest_base = plan(trained, asked)
    parts, cache = trained_parts(trained), FeatureCache(run, trained)
    if len(parts.calibration) < (needed := images_needed(asked.alpha, "pac", asked.delta)):
        raise TrainingError(
            f"alpha {asked.alpha:g} needs at least {needed} calibration pictures, {trained.recipe.calibration or trained.recipe.data} "
            f"leaves {len(parts.calibration)}; `train --calibration` names more"
        )
    check_answers(trained, targets.id_test, targets.id_name)
    check_apart(targets.id_test, parts.calibration, "in the ID test set and in the calibration set")
    fitted = fit(trained, parts, cache, asked.postprocessors, choices(found))
    tell_copies(parts, cache)
    network = round_weights(trained.network) if asked.precision == "fp16" else trained.network
    graph = Graph(network, fitted.probabilities, fitted.postprocessors).eval()
    print("exporting the graph")
    model = to_onnx(graph, trained.recipe.input.size, ["probabilities", "scores"])
    runner = GraphRunner(model, folder, trained.recipe)
    inside, outside = release_pictures(runner, parts.validation, targets)
    golden = check_release(graph, runner, inside, outside)
    if asked.precision == "int8":
        from training.quantise import quantise

        print("quantising the graph")
        model = quantise(model, inside.numpy())
        runner = GraphRunner(model, folder, trained.recipe)
        golden = check_release(None, runner, inside, outside, graph.keys)
    _, probabilities, scores = runner.run_source(parts.calibration, "calibration pictures")
    order = scores.argsort(axis=0, kind="stable")
    calibration = np.take_along_axis(scores, order, axis=0).T.copy()
    predicted = probabilities.argmax(axis=1).astype(np.int32)[order.T]
    evaluation = evaluate_graph(runner, cache, fitted, targets, asked, calibration, found)
    files = {
        "model.onnx": model,
        "calibration.npz": npz(scores=calibration, predicted=predicted),
        "golden.npz": golden,
        "evaluation.json": (evaluation.model_dump_json(indent=1) + "\n").encode(),
    }
    info = CalibrationInfo(
        n=len(scores),
        alpha=asked.alpha,
        delta=asked.delta,
        data=calibration_data(trained.recipe, len(scores)),
        timestamp=round(time.time()),
    )
    hashes = {name: sha256(data) for name, data in files.items()}
    manifest = Manifest(**manifest_base, calibration=info, sha256=hashes, hyperparameters=choices(found))
    said = promise(calibration, list(fitted.postprocessors), asked)
    write(folder, files, manifest)
    print(said)
    return folder


def plan(trained: Trained, asked: Export) -> tuple[Path, dict[str, Any]]:
    """Where the bundle goes, and its manifest as far as it is known beforehand; refuses early what cannot end well."""
    for key in asked.postprocessors:
        if key in EVALUATED_ONLY:
            raise TrainingError(f"{key} needs the gradient with respect to the picture, which no exported graph computes: it can only be evaluated")
    if asked.default_postprocessor not in asked.postprocessors:
        raise TrainingError(
            f"the default post-processor {asked.default_postprocessor!r} is not among {', '.join(asked.postprocessors)}; "
            "choose one of them with --default-postprocessor"
        )
    version = asked.version or max(find_versions(asked.models_dir).get(asked.name, {0: None})) + 1
    folder = asked.models_dir / asked.name / str(version)
    if folder.exists():
        raise TrainingError(f"{folder} exists; a version is never overwritten")
    recipe = trained.recipe
    training = TrainingInfo(
        recipe=recipe.as_dict()
        | {"served_precision": asked.precision, "epoch_kept": trained.epoch, "validation_accuracy": trained.validation_accuracy},
        data=recipe.data,
        seed=recipe.seed,
        code_version=trained.code_version,
    )
    return folder, {
        "format_version": FORMAT_VERSION,
        "name": asked.name,
        "version": version,
        "classes": trained.classes,
        "input": recipe.input,
        "postprocessors": tuple(asked.postprocessors),
        "default_postprocessor": asked.default_postprocessor,
        "training": training,
    }


def release_pictures(runner: GraphRunner, validation: Source, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """ID and OOD pictures for the release gate, each (N, H, W, 3).

    Where no OOD validation set is given, the validation pictures with their patches shuffled stand in for one.
    """
    inside = sample(runner.load(validation, "validation pictures"))
    if targets.ood_validation is not None:
        return inside, sample(runner.load(targets.ood_validation, "OOD validation pictures"))
    print("no OOD validation set is given: validation pictures with shuffled patches stand in for it")
    return inside, shuffled_patches(inside, max(1, runner.spec.size // 4))


@torch.inference_mode()
def check_release(graph: Graph | None, runner: GraphRunner, inside: torch.Tensor, outside: torch.Tensor, keys: Sequence[str] | None = None) -> bytes:
    """Passes the release gate, or raises; the golden images come from the pictures that it was passed on.

    graph: what the exported one must equal, and the source of the golden answers. None for a quantised one, which equals nothing but itself.
    """
    images = torch.cat([inside, outside])
    got = [runner.run(batch.numpy()) for batch in images.split(BATCH)]
    probabilities, scores = (np.concatenate(part) for part in zip(*got, strict=True))
    keys = graph.keys if graph is not None else keys or ()
    columns = dict(zip(keys, scores.T, strict=True))
    if graph is not None:
        graph_probabilities = probabilities
        wanted = [graph(batch) for batch in images.split(BATCH)]
        probabilities, scores = (torch.cat(part).numpy() for part in zip(*wanted, strict=True))
        check_parity("probabilities", probabilities, graph_probabilities)
        for key, wanted_column in zip(keys, scores.T, strict=True):
            check_parity(key, wanted_column, columns[key])
    found = check_scores(
        {key: column[: len(inside)] for key, column in columns.items()}, {key: column[len(inside) :] for key, column in columns.items()}
    )
    print("AUROC on the OOD validation set: " + "  ".join(f"{key} {value:.3f}" for key, value in found.items()))
    chosen = evenly(len(images), GOLDEN_IMAGES).numpy()
    return npz(images=images.numpy()[chosen], probabilities=probabilities[chosen], scores=scores[chosen])


def sample(pictures: Pictures, most: int = 1000) -> torch.Tensor:
    """At most `most` pictures, evenly spaced: (N, H, W, 3)."""
    return pictures.take(evenly(len(pictures), most))


def evenly(length: int, most: int) -> torch.Tensor:
    """At most `most` rows of `length`, evenly spaced."""
    return torch.linspace(0, length - 1, min(length, most)).round().long()


def evaluate_graph(
    runner: GraphRunner, cache: FeatureCache, fitted: Fitted, targets: Targets, asked: Export, calibration: Array, found: Search | None
) -> Evaluation:
    """The evaluation table of this very graph, with what each operating point did on the test pictures."""
    keys = list(fitted.postprocessors)

    def answers(source: Source, what: str) -> Answers:
        labels, probabilities, scores = runner.run_source(source, what)
        return Answers(labels, probabilities, {key: scores[:, column] for column, key in enumerate(keys)})

    inside = answers(targets.id_test, "ID test pictures")
    outside = {name: answers(source, name).scores for name, source in targets.sources.items()}
    shifted = {name: answers(source, name) for name, source in targets.shifted.items()}
    logits = cache.outputs("ID test", targets.id_test).logits
    table = summarise(inside.scores, outside, targets.ood_sets)
    for row, key in enumerate(keys):
        points = operating_points(calibration[row], inside.scores[key], {name: outside[name][key] for name in outside}, asked.delta)
        table[key] = table[key].model_copy(update={"operating_points": points})
    spectrum = full_spectrum(targets, inside, shifted, outside)
    return conclude(targets, inside.labels, inside.probabilities, logits, cache.trained.network.head, table, spectrum, found)


def promise(calibration: Array, keys: Sequence[str], asked: Export) -> str:
    """What the new bundle's thresholds promise and on how many pictures they rest. calibration: (P, n), rows sorted, keys their scores."""
    n = calibration.shape[1]
    try:
        gates = {key: open_gate(row, asked.alpha, "pac", asked.delta) for key, row in zip(keys, calibration, strict=True)}
    except TooFewCalibrationImages as exc:
        raise TrainingError(str(exc)) from None
    default = asked.default_postprocessor
    others = [key for key in keys if key != default]
    expected, least = gates[default].expected_false_reject_ratio, math.ceil(1e5 * least_alpha(n, asked.delta)) / 1e5
    return "\n".join(
        [
            f"{default} decides" + (f"; --default-postprocessor lets another do so: {' '.join(others)}" if others else ""),
            "thresholds: " + "  ".join(f"{key} {gate.threshold:.4g}" for key, gate in gates.items()),
            f"alpha {asked.alpha:g}: with {1 - asked.delta:.0%} confidence at most {asked.alpha:.4g} of such pictures are rejected, "
            f"{expected:.4g} are expected; n = {n}, which allows no alpha below {least:g}",
        ]
    )


def write(folder: Path, files: dict[str, bytes], manifest: Manifest) -> None:
    try:
        write_bundle(folder, files, manifest)
    except BundleError as exc:
        raise TrainingError(str(exc)) from None
