"""Sets of labelled pictures: where they lie, how they are split, how they become batches.

`open_source` finds pictures without decoding any; `load` decodes them, once and into memory when they fit, else batch
by batch. Every picture goes through `service.bundle.preprocess`, so training sees what the service will see.
"""

import contextlib
import glob
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from service.bundle.preprocess import InputSpec, InvalidImage, Pixels, decode, to_pixels
from training.config import TrainingError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NO_LABEL = -1


@dataclass(frozen=True)
class Source:
    """Pictures not yet decoded: labels (N,), a name for each in messages, and how to read one."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    name: Callable[[int], str]
    read: Callable[[int], bytes | Image.Image]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[np.int64]) -> "Source":
        return Source(self.classes, self.labels[rows], lambda i: self.name(int(rows[i])), lambda i: self.read(int(rows[i])))

    def pixels(self, row: int, spec: InputSpec) -> Pixels:
        """One decoded picture. TrainingError names it if it cannot be read."""
        try:
            picture = self.read(row)
            return decode(picture, spec) if isinstance(picture, bytes) else to_pixels(picture, spec)
        except (InvalidImage, OSError, SyntaxError, ValueError) as exc:  # Pillow reports a broken PNG as SyntaxError
            raise TrainingError(f"{self.name(row)} cannot be read: {exc}") from None


class Pictures:
    """Decoded pictures of one set: `take(rows)` gives uint8 (N, H, W, 3); `labels` is int64 (N,)."""

    def __init__(self, source: Source, spec: InputSpec, array: Pixels | None) -> None:
        self.classes = source.classes
        self.labels = torch.from_numpy(source.labels)
        self.source = source
        self.spec = spec
        self.tensor = None if array is None else torch.from_numpy(array)
        self.pool = None if array is not None else ThreadPoolExecutor(cores())

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Tensor:
        if self.tensor is not None:
            return self.tensor[rows]
        assert self.pool is not None
        return torch.from_numpy(np.stack(list(self.pool.map(lambda i: self.source.pixels(i, self.spec), rows.tolist()))))

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) for each tensor of rows; the next batch is prepared while the caller uses this one."""
        if not order:
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.take, order[0])
            for rows, following in zip(order, [*order[1:], None], strict=True):
                images = coming.result()
                if following is not None:
                    coming = ahead.submit(self.take, following)
                yield images, self.labels[rows]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def free_bytes() -> int:
    """Memory that can still be had: of the machine, and of the container (cgroup v2) where that has a limit of its own."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    free = int(available.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no container, or its limit reads "max"
        limit = int((group / "memory.max").read_text())
        files = next(line for line in (group / "memory.stat").read_text().splitlines() if line.startswith("inactive_file"))
        free = min(free, limit - int((group / "memory.current").read_text()) + int(files.split()[1]))
    return free


def load(source: Source, spec: InputSpec, what: str, skip_unreadable: bool = False, fraction: float = 0.5) -> Pictures:
    """Decodes a source, into memory if it takes at most `fraction` of what is free to this process, else on demand.

    An unreadable picture stops with its name, or is left out and counted with `skip_unreadable`.
    """
    needed = len(source) * spec.crop * spec.crop * 3
    fits = needed * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= fraction * free_bytes()
    if not fits and not skip_unreadable:
        return Pictures(source, spec, None)
    array = np.empty((len(source), spec.crop, spec.crop, 3), np.uint8) if fits else None
    unreadable: list[int] = []

    def fill(row: int) -> None:
        try:
            pixels = source.pixels(row, spec)
        except TrainingError:
            if not skip_unreadable:
                raise
            unreadable.append(row)
        else:
            if array is not None:
                array[row] = pixels

    with ThreadPoolExecutor(cores()) as pool:
        try:
            for _ in tqdm(pool.map(fill, range(len(source))), f"read {what}", len(source), leave=False, disable=None):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a stop must not wait for all that is still queued
            raise
    if not unreadable:
        return Pictures(source, spec, array)
    print(f"{what}: {len(unreadable)} of {len(source)} pictures could not be read and are left out")
    kept = np.setdiff1d(np.arange(len(source)), unreadable)
    if len(kept) == 0:
        raise TrainingError(f"{what}: not one of {len(source)} pictures can be read")
    return Pictures(source.subset(kept), spec, None if array is None else array[kept])


def open_source(where: str, split: str | None = None) -> Source | None:
    """The pictures of a folder, a Parquet file or a torchvision set; None if it has no such split.

    where: a folder with a directory per class (or with train/ val/ test/ of such), a folder of train*.parquet …, one
    Parquet file, optionally with the rows to keep (`test.parquet#column=value`), or the name of a torchvision set.
    split: train, val or test; None takes everything as one set (for OOD sets, whose labels do not count).
    """
    file, condition = where, ""
    if "#" in where and not Path(where).exists():
        file, _, condition = where.rpartition("#")
    path = Path(file)
    if path.is_file():
        return from_parquet([path], condition) if split in (None, "train") else None
    if not path.exists():
        return from_torchvision(where, split)
    if any(path.glob("*.parquet")):
        files = sorted(path.glob(f"{split or ''}*.parquet"))
        if not files and split == "train":
            raise TrainingError(f"{path} has Parquet files but no train*.parquet among them")
        return from_parquet(files, condition) if files else None
    if condition:
        raise TrainingError(f"{path} is a folder of pictures; #{condition} is for Parquet")
    if split is None:
        return from_folder(path, need_classes=False)
    if has_splits(path):
        return next((from_folder(path / name) for name in SPLIT_FOLDERS[split] if (path / name).is_dir()), None)
    return from_folder(path) if split == "train" else None


def has_splits(root: Path) -> bool:
    """Whether there is a train/ with a directory per class. Without one, train, valid and test may be classes."""
    train = root / "train"
    if train.is_dir() and any(entry.is_dir() for entry in train.iterdir()):
        return True
    names = {entry.name for entry in root.iterdir() if entry.is_dir()}
    if names and names <= set().union(*SPLIT_FOLDERS.values()):
        raise TrainingError(f"{root} has {', '.join(sorted(names))} but no train/ with a directory per class")
    return False


def from_folder(root: Path, need_classes: bool = True) -> Source:
    """One directory per class, named after it; pictures may lie deeper. Without classes, every picture below."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not need_classes:
        folders = [root]
    if not folders:
        raise TrainingError(f"{root} has no directories; one per class is needed")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(filter(is_picture, folder.rglob("*")))
        if not found and need_classes:
            raise TrainingError(f"class {folder.name!r} has no picture: {folder} holds no {' '.join(sorted(SUFFIXES))} file")
        files += found
        labels += [label if need_classes else NO_LABEL] * len(found)
    if not files:
        raise TrainingError(f"{root} holds no picture")
    names = tuple(folder.name for folder in folders) if need_classes else ()
    return Source(names, np.array(labels, np.int64), lambda i: str(files[i]), lambda i: files[i].read_bytes())


def is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def from_parquet(files: Sequence[Path], condition: str = "") -> Source:
    """Parquet in the Hugging Face image convention: a struct column with `bytes`, and a label column."""
    import datasets

    datasets.disable_progress_bars()
    where = ", ".join(map(str, files))
    try:
        # One by one, so that a row can be named by its file. The path is a pattern to datasets, hence the escape.
        tables = [datasets.Dataset.from_parquet(glob.escape(str(file))) for file in files]
        table = datasets.concatenate_datasets(tables)
    except Exception as exc:  # noqa: BLE001 -- pyarrow and datasets raise a dozen kinds for a broken file
        raise TrainingError(f"{where} cannot be read as Parquet: {exc}") from None
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image) or is_encoded(kind)]
    if not images:
        raise TrainingError(f"{where} has no image column (a struct with bytes); it has {', '.join(table.column_names)}")
    table = table.cast_column(images[0], datasets.Image(decode=False))
    rows = np.arange(len(table))
    if condition:
        column, _, value = condition.partition("=")
        if column not in table.column_names:
            raise TrainingError(f"{where} has no column {column!r}; it has {', '.join(table.column_names)}")
        rows = rows[np.array([str(cell) == value for cell in table[column]])]
        if len(rows) == 0:
            raise TrainingError(f"{where} has no row with {condition}")
    labels, classes = label_column(table, rows)
    starts = np.cumsum([0, *map(len, tables)])

    def place(i: int) -> tuple[Path, int]:
        which = int(np.searchsorted(starts, rows[i], "right")) - 1
        return files[which], int(rows[i] - starts[which])

    def name(i: int) -> str:
        file, row = place(i)
        return f"{file}, row {row}"

    return Source(classes, labels, name, lambda i: read_cell(table[int(rows[i])][images[0]], place(i)[0].parent))


def is_encoded(kind: Any) -> bool:
    return isinstance(kind, dict) and "bytes" in kind


def read_cell(cell: dict[str, Any] | None, folder: Path) -> bytes:
    if cell is not None and cell["bytes"]:
        return bytes(cell["bytes"])
    if cell is None or not cell.get("path"):
        raise InvalidImage("it is empty")
    return (folder / str(cell["path"])).read_bytes()


def label_column(table: Any, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of the chosen rows and the class names: a ClassLabel's own, else the sorted distinct values."""
    named = [name for name, kind in table.features.items() if hasattr(kind, "names")]
    column = "label" if "label" in table.column_names else next(iter(named), None)
    if column is None:
        return np.full(len(rows), NO_LABEL, np.int64), ()
    cells = table[column][:]
    values = [cells[row] for row in rows]
    if column in named:
        return np.array([NO_LABEL if value is None else value for value in values], np.int64), tuple(table.features[column].names)
    distinct = sorted({value for value in values if value is not None})
    numbers = {value: label for label, value in enumerate(distinct)} | {None: NO_LABEL}
    return np.array([numbers[value] for value in values], np.int64), tuple(map(str, distinct))


def from_torchvision(name: str, split: str | None) -> Source | None:
    """A set of torchvision by its class name in any case (`cifar10`, `SVHN`), downloaded to ./data when missing."""
    from torchvision import datasets as sets

    known = {entry.lower(): getattr(sets, entry) for entry in sets.__all__ if inspect.isclass(getattr(sets, entry))}
    if name.lower() not in known:
        raise TrainingError(f"{name!r} is no file, no folder and no torchvision set")
    kind = known[name.lower()]
    takes = inspect.signature(kind).parameters
    if split == "val":
        return None
    choice: dict[str, Any] = {"train": split != "test"} if "train" in takes else {"split": split or "train"}
    if "download" not in takes or not (choice.keys() & takes.keys()):
        raise TrainingError(f"torchvision's {kind.__name__} has no split or cannot be downloaded; give its folder instead")
    try:
        with contextlib.redirect_stdout(None):
            found = kind("data", download=True, **choice)
    except Exception as exc:  # noqa: BLE001 -- downloads, archives and each set's own parser raise their own kinds
        raise TrainingError(f"torchvision's {kind.__name__} cannot be had: {' '.join(str(exc).split())}") from None
    stored = next((getattr(found, field) for field in ("targets", "labels", "_labels") if hasattr(found, field)), None)
    try:
        labels = np.asarray([found[i][1] for i in range(len(found))] if stored is None else stored, np.int64)
    except (TypeError, ValueError):
        labels = np.zeros((0, 0), np.int64)
    if labels.ndim != 1:
        raise TrainingError(f"torchvision's {kind.__name__} has no single class per picture")
    entries = getattr(found, "classes", None) or np.unique(labels).tolist()
    names = tuple(", ".join(entry) if isinstance(entry, tuple) else str(entry) for entry in entries)
    return Source(names, labels, lambda i: f"{kind.__name__}[{i}]", lambda i: found[i][0])


def check_classes(source: Source, where: str) -> None:
    """Refuses what cannot be learnt: fewer than two classes, a picture without a label, a class with no picture."""
    if len(source.classes) < 2:
        raise TrainingError(f"{where} has {len(source.classes)} classes, at least 2 are needed")
    unlabelled = np.flatnonzero((source.labels < 0) | (source.labels >= len(source.classes)))
    if len(unlabelled):
        raise TrainingError(f"{source.name(int(unlabelled[0]))} has no label")
    empty = np.flatnonzero(np.bincount(source.labels, minlength=len(source.classes)) == 0)
    if len(empty):
        raise TrainingError(f"class {source.classes[empty[0]]!r} has no picture in {where}")


def hold_out(labels: NDArray[np.int64], share: float, limit: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows kept and rows held out: of each class the same share, at most `limit` in all but at least one each, by seed."""
    share = min(share, limit / len(labels))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = np.array([share * len(rows) for rows in classes])
    counts = np.maximum(1, (wanted + 0.5).astype(np.int64))
    while counts.sum() > max(limit, len(classes)):
        counts[np.argmax(np.where(counts > 1, counts - wanted, -np.inf))] -= 1
    generator = np.random.default_rng(seed)
    out = np.sort(np.concatenate([generator.permutation(rows)[:count] for rows, count in zip(classes, counts, strict=True)]))
    return np.setdiff1d(np.arange(len(labels)), out), out


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
