"""`oodgate calibrate`: new ID pictures -> a new version of a bundle, the same graph with thresholds that rest on them."""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from service.bundle.calibration import CalibrationInfo
from service.bundle.decision import STANDARD_ALPHAS, TooFewCalibrationImages, images_needed
from service.bundle.manifest import FILES, Bundle, find_versions, load_bundle, npz, sha256
from service.bundle.reference import count_classes, hold_against, open_references
from service.bundle.writing import write_bundle
from service.runtime import Runtime
from service.scoring import STANDARD_INPUT, NoPictures, Scored, expand, find_folder, read, score
from service.settings import Settings


@dataclass(frozen=True)
class Wanted:
    """What is asked of the new version. None: as the version before."""

    paths: list[str]
    version: int | None = None
    per_class: bool | None = None
    description: str | None = None


def calibrate(settings: Settings, wanted: Wanted) -> int:
    """Writes the next version beside the old ones and prints what changes. Raises `scoring.REFUSALS`; nothing is written then."""
    before = load_bundle(find_folder(settings, wanted.version))
    alpha, delta = settings.alpha or before.manifest.calibration.alpha, before.manifest.calibration.delta
    needed = images_needed(alpha, settings.guarantee, delta)
    names, unreadable = expand(wanted.paths), list[str]()
    distinct, copies = leave_out_copies(names)
    refuse_too_few(len(distinct), needed, alpha, settings)
    runtime = Runtime(before, settings.device, settings.intra_op_threads)
    runtime.check_golden()
    found = list(score(runtime, distinct, settings, unreadable))
    refuse_too_few(len(found), needed, alpha, settings)
    about = wanted.description or f"{len(found)} pictures of {', '.join(wanted.paths)}"
    per_class = before.manifest.calibration.per_class is not None if wanted.per_class is None else wanted.per_class
    folder = write(before, found, about, alpha, needed if per_class else None)
    if copies or unreadable:
        print(f"left out: {len(copies)} copies of other pictures, {len(unreadable)} unreadable")
    show(before, load_bundle(folder), found, settings)
    return 0


def leave_out_copies(names: list[str]) -> tuple[list[str], list[str]]:
    """Distinct files, and those that are the same byte for byte as one before: they would count twice in a promise that rests on chance."""
    seen: set[bytes] = set()
    distinct: list[str] = []
    copies: list[str] = []
    for name in names:
        if name == STANDARD_INPUT:
            raise NoPictures("calibrate takes files, folders and URLs; one picture on standard input is too little")
        try:
            key = hashlib.sha256(read(name)).digest()
        except OSError:
            key = name.encode()
        (copies if key in seen else distinct).append(name)
        seen.add(key)
    return distinct, copies


def refuse_too_few(count: int, needed: int, alpha: float, settings: Settings) -> None:
    if count < needed:
        raise TooFewCalibrationImages(
            f"alpha {alpha:g} with guarantee {settings.guarantee} needs at least {needed} distinct, readable pictures, there are {count}"
        )


def write(before: Bundle, found: list[Scored], about: str, alpha: float, needed_per_class: int | None) -> Path:
    """The next version's folder. Graph and golden answers are the old ones; of the evaluation stays what no threshold enters."""
    old = before.manifest
    scores = np.stack([entry.scores for entry in found])
    order = scores.argsort(axis=0, kind="stable")
    predicted = np.stack([entry.probabilities for entry in found]).argmax(axis=1).astype(np.int32)
    without_thresholds = {key: entry.model_copy(update={"operating_points": ()}) for key, entry in before.evaluation.postprocessors.items()}
    files = {name: (before.folder / name).read_bytes() for name in FILES} | {
        "model.onnx": before.model,
        "calibration.npz": npz(scores=np.take_along_axis(scores, order, axis=0).T.copy(), predicted=predicted[order.T]),
        "evaluation.json": (before.evaluation.model_copy(update={"postprocessors": without_thresholds}).model_dump_json(indent=1) + "\n").encode(),
    }
    version = max(find_versions(before.folder.parent.parent)[old.name]) + 1
    info = CalibrationInfo(
        n=len(found),
        alpha=alpha,
        delta=old.calibration.delta,
        data=about,
        timestamp=round(time.time()),
        recalibrated_from=old.version,
        per_class=None if needed_per_class is None else count_classes(predicted, old.classes, needed_per_class),
    )
    hashes = {name: sha256(data) for name, data in files.items()}
    folder = before.folder.parent / str(version)
    write_bundle(folder, files, old.model_copy(update={"version": version, "calibration": info, "sha256": hashes}))
    return folder


def show(before: Bundle, after: Bundle, found: list[Scored], settings: Settings) -> None:
    """Thresholds of both versions at the new one's alpha, and what the old ones do to the new pictures."""
    info = after.manifest.calibration
    table = Table("post-processor", "threshold before", "now", "of the new pictures rejected before")
    scores, predicted = np.stack([entry.scores for entry in found]), np.array([entry.probabilities.argmax() for entry in found])
    for column, key in enumerate(after.manifest.postprocessors):
        now, threshold, rejected = open_references(after, column, info.alpha, settings.guarantee), "", ""
        with suppress(TooFewCalibrationImages):
            old = open_references(before, column, info.alpha, settings.guarantee)
            threshold = f"{old.shared.gate.threshold:.4g}"
            rejected = f"{(scores[:, column] > hold_against(old, predicted, scores[:, column])[1]).mean():.1%}"
        table.add_row(key, threshold, f"{now.shared.gate.threshold:.4g}", rejected)
    confidence = f"with {1 - info.delta:.0%} confidence" if settings.guarantee == "pac" else "on average"
    each = "" if info.per_class is None else ", of each class that has a threshold of its own and of the others together,"
    Console().print(table)
    print(f"alpha {info.alpha:g}: {confidence} at most {info.alpha:.4g} of such pictures{each} are rejected; n = {info.n}")
    if info.per_class is not None:
        # The same of every post-processor: they go by how many pictures were taken for each class.
        others = [name for class_id, name in enumerate(after.manifest.classes) if class_id not in now.own]
        needed = images_needed(info.alpha, settings.guarantee, info.delta)
        print(f"{len(now.own)} of {len(info.per_class)} classes have a threshold of their own", end="")
        named = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        print(f"; one together, for which {needed} pictures are needed, have {named}" if others else "")
    needs = {alpha: images_needed(alpha, settings.guarantee, info.delta) for alpha in STANDARD_ALPHAS}
    if more := [f"{alpha:g} needs {needed}" for alpha, needed in needs.items() if needed > info.n]:
        print(f"too few pictures for smaller alphas: {', '.join(more)}")
    reload = f"SIGHUP, POST /models/{after.manifest.name}/reload (admin key), or by itself with --watch"
    print(f"{after.folder} is written; version {before.manifest.version} stays. In service after {reload}")
