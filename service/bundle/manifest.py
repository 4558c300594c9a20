"""What a bundle is: its manifest and evaluation as types; how one is written, found, read and refused.

Does not know what is in model.onnx: `service.runtime` opens that, and refuses a graph that does not fit the manifest.
"""

import glob
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from service.bundle.calibration import Calibration, CalibrationInfo
from service.bundle.evaluation import Evaluation, Hyperparameter, Strict
from service.bundle.preprocess import InputSpec, Pixels

FORMAT_VERSION = 1
FILES = ("model.onnx", "calibration.npz", "golden.npz", "evaluation.json")
MANIFEST = "manifest.json"
NAME = r"^[a-z0-9][a-z0-9._-]{0,127}$"
Name = Annotated[str, Field(pattern=NAME)]
PostprocessorKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class BundleError(Exception):
    """A bundle that must not be served; the message says which and why."""


class TrainingInfo(Strict):
    """Where the network came from."""

    recipe: dict[str, Any]
    data: str
    seed: int
    code_version: str


class Manifest(Strict):
    """manifest.json. `postprocessors` names the columns of the graph's `scores`, in order.

    hyperparameters: per post-processor the values that a search chose; one without an entry has its defaults.
    """

    format_version: Literal[1]
    name: Name
    version: Annotated[int, Field(ge=1)]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    input: InputSpec
    postprocessors: Annotated[tuple[PostprocessorKey, ...], Field(min_length=1)]
    default_postprocessor: str
    calibration: CalibrationInfo
    training: TrainingInfo
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    hyperparameters: Annotated[dict[PostprocessorKey, dict[str, Hyperparameter]], Field(default_factory=dict)]

    @model_validator(mode="after")
    def agrees_with_itself(self) -> "Manifest":
        if self.default_postprocessor not in self.postprocessors:
            raise ValueError(f"default_postprocessor {self.default_postprocessor!r} is not among {', '.join(self.postprocessors)}")
        if stray := sorted(set(self.hyperparameters) - set(self.postprocessors)):
            raise ValueError(f"hyperparameters are given for {', '.join(stray)}, which is not among {', '.join(self.postprocessors)}")
        if len(set(self.postprocessors)) < len(self.postprocessors) or len(set(self.classes)) < len(self.classes):
            raise ValueError("a class or post-processor is named twice")
        if self.input.crop != self.input.size or self.input.crop > self.input.resize:
            raise ValueError(f"input crop {self.input.crop} must equal size {self.input.size} and fit into resize {self.input.resize}")
        if self.calibration.per_class is not None and tuple(self.calibration.per_class) != self.classes:
            raise ValueError("calibration.per_class must list every class, in their order")
        if set(self.sha256) != set(FILES):
            raise ValueError(f"sha256 must list {', '.join(FILES)}; it lists {', '.join(sorted(self.sha256))}")
        return self


@dataclass(frozen=True)
class Golden:
    """Images (M, H, W, 3) and what torch computed for them: probabilities (M, C), scores (M, P)."""

    images: Pixels
    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A complete, consistent bundle. `model` is model.onnx, as bytes that had the right sha256."""

    folder: Path
    manifest: Manifest
    evaluation: Evaluation
    calibration: Calibration
    golden: Golden
    model: bytes


def find_versions(models_dir: Path) -> dict[str, dict[int, Path]]:
    """Name -> version -> folder of every complete bundle (one with a manifest), versions ascending. Folders of other names are none."""
    found: dict[str, dict[int, Path]] = {}
    # Path.glob raises when a folder goes while it looks.
    for path in map(Path, glob.iglob(f"{glob.escape(str(models_dir))}/*/*/{MANIFEST}")):  # noqa: PTH207
        name, version = path.parts[-3:-1]
        if re.fullmatch(NAME, name) and re.fullmatch(r"[1-9][0-9]*", version):
            found.setdefault(name, {})[int(version)] = path.parent
    return {name: dict(sorted(versions.items())) for name, versions in sorted(found.items())}


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks one bundle. Raises BundleError with one sentence for whatever is wrong with it."""
    manifest = read_manifest(folder)
    content = {}
    for name in FILES:
        try:
            content[name] = (folder / name).read_bytes()
        except OSError as exc:
            raise BundleError(f"{folder}: {name} cannot be read: {exc.strerror}") from None
        if (actual := sha256(content[name])) != manifest.sha256[name]:
            raise BundleError(f"{folder}: {name} has sha256 {actual[:12]}…, the manifest says {manifest.sha256[name][:12]}…")
    if extra := sorted({entry.name for entry in folder.iterdir()} - {*FILES, MANIFEST}):
        raise BundleError(f"{folder}: {extra[0]} does not belong into a bundle (external data is not accepted)")
    try:
        evaluation = Evaluation.model_validate_json(content["evaluation.json"])
    except ValidationError as exc:
        raise BundleError(f"{folder}: evaluation.json: {first_error(exc)}") from None
    return Bundle(
        folder,
        manifest,
        evaluation,
        read_calibration(folder, manifest, content["calibration.npz"]),
        read_golden(folder, manifest, content["golden.npz"]),
        content["model.onnx"],
    )


def read_manifest(folder: Path) -> Manifest:
    """manifest.json alone, checked against its folder's name."""
    try:
        raw = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{folder}: {MANIFEST} is missing, so the bundle is not complete") from None
    except (OSError, ValueError) as exc:
        raise BundleError(f"{folder}: {MANIFEST} cannot be read: {exc}") from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{folder}: format_version is {version!r}, this version reads {FORMAT_VERSION}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as exc:
        raise BundleError(f"{folder}: {MANIFEST}: {first_error(exc)}") from None
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BundleError(f"{folder}: the manifest names {manifest.name}/{manifest.version}, the folder {folder.parent.name}/{folder.name}")
    return manifest


def read_arrays(folder: Path, name: str, data: bytes, wanted: Mapping[str, tuple[type[np.generic], tuple[int, ...]]]) -> dict[str, Any]:
    """The arrays of an npz file, each with the type and shape wanted (-1 for any length)."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as exc:
        raise BundleError(f"{folder}: {name} cannot be read: {exc}") from None
    if set(arrays) != set(wanted):
        raise BundleError(f"{folder}: {name} holds {', '.join(sorted(arrays))}; it must hold {', '.join(sorted(wanted))}")
    for key, (kind, shape) in wanted.items():
        array = arrays[key]
        fits = len(array.shape) == len(shape) and all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
        if array.dtype != kind or not fits:
            raise BundleError(f"{folder}: {name}: {key} is {array.dtype}{array.shape}, it must be {np.dtype(kind)}{shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{folder}: {name}: {key} has values that are not finite")
    return arrays


def read_calibration(folder: Path, manifest: Manifest, data: bytes) -> Calibration:
    shape = (len(manifest.postprocessors), manifest.calibration.n)
    arrays = read_arrays(folder, "calibration.npz", data, {"scores": (np.float32, shape), "predicted": (np.int32, shape)})
    calibration = Calibration(arrays["scores"], arrays["predicted"])
    for key, row in zip(manifest.postprocessors, calibration.scores, strict=True):
        if (np.diff(row) < 0).any():
            raise BundleError(f"{folder}: calibration.npz: the scores of {key} are not sorted")
    if not ((calibration.predicted >= 0) & (calibration.predicted < len(manifest.classes))).all():
        raise BundleError(f"{folder}: calibration.npz: predicted has classes outside 0 … {len(manifest.classes) - 1}")
    for class_id, (name, entry) in enumerate((manifest.calibration.per_class or {}).items()):
        if not (found := (calibration.predicted == class_id).sum(axis=1) == entry.images).all():
            key = manifest.postprocessors[int(found.argmin())]
            raise BundleError(f"{folder}: calibration.npz: {key} has another number of {name} images than the {entry.images} in the manifest")
    return calibration


def read_golden(folder: Path, manifest: Manifest, data: bytes) -> Golden:
    size = manifest.input.size
    wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "images": (np.uint8, (-1, size, size, 3)),
        "probabilities": (np.float32, (-1, len(manifest.classes))),
        "scores": (np.float32, (-1, len(manifest.postprocessors))),
    }
    golden = Golden(**read_arrays(folder, "golden.npz", data, wanted))
    if len({len(golden.images), len(golden.probabilities), len(golden.scores)}) > 1 or len(golden.images) == 0:
        raise BundleError(f"{folder}: golden.npz: images, probabilities and scores must be equally many, and at least one")
    return golden


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def npz(**arrays: NDArray[Any]) -> bytes:
    """The bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def first_error(exc: ValidationError) -> str:
    """A pydantic error as one sentence."""
    error = exc.errors()[0]
    where = ".".join(map(str, error["loc"]))
    return f"{where}: {error['msg']}" if where else error["msg"]
