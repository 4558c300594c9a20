"""Where labelled pictures lie: folders, Parquet files, image lists, torchvision's sets. Finds them without decoding any."""

import contextlib
import glob
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.preprocess import SUFFIXES, InputSpec, InvalidImage, Pixels, decode, to_pixels
from training.config import TrainingError

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# Where OpenOOD keeps the pictures that its lists name, beside the folder of the lists.
IMAGE_FOLDERS = ("images_classic", "images_largescale")
NO_LABEL = -1


@dataclass(frozen=True)
class Source:
    """Pictures not yet decoded: labels (N,), a name for each in messages, and how to read one.

    whole: nothing is cut off a square one: the shorter side is brought to the size of the crop.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    name: Callable[[int], str]
    read: Callable[[int], bytes | Image.Image]
    whole: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[np.int64]) -> "Source":
        return replace(self, labels=self.labels[rows], name=lambda i: self.name(int(rows[i])), read=lambda i: self.read(int(rows[i])))

    def pixels(self, row: int, spec: InputSpec) -> Pixels:
        """One decoded picture. TrainingError names it if it cannot be read."""
        if self.whole:
            spec = spec.model_copy(update={"resize": spec.crop})
        try:
            picture = self.read(row)
            return decode(picture, spec) if isinstance(picture, bytes) else to_pixels(picture, spec)
        except (InvalidImage, OSError, SyntaxError, ValueError) as exc:  # Pillow reports a broken PNG as SyntaxError
            raise TrainingError(f"{self.name(row)} cannot be read: {exc}") from None


def open_source(where: str, split: str | None = None) -> Source | None:
    """The pictures of a folder, a Parquet file, an image list or a torchvision set; None if it has no such split.

    where: a folder with a directory per class (or with train/ val/ test/ of such), a folder of train*.parquet …, one
    Parquet file, optionally with the rows to keep (`test.parquet#column=value`), an image list (`test_tin.txt`), or the
    name of a torchvision set.
    split: train, val or test; None takes everything as one set (for OOD sets, whose labels do not count).
    """
    file, condition = where, ""
    if "#" in where and not Path(where).exists():
        file, _, condition = where.rpartition("#")
    path = Path(file)
    if path.is_file():
        if split not in (None, "train"):
            return None
        return from_list(path) if path.suffix == ".txt" else from_parquet([path], condition)
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


def from_list(file: Path) -> Source:
    """An image list of OpenOOD's `benchmark_imglist`: `cifar10/test/cat/0003.png 3` a line, the label last.

    The pictures lie in images_classic/ or images_largescale/ beside benchmark_imglist/, or beside the list itself. A
    class is named after the folder of its pictures where each has one of its own, else nothing is.
    """
    try:
        entries = [line.rstrip().rpartition(" ")[::2] for line in file.read_text().splitlines() if line.strip()]
        labels = np.array([int(label) for _, label in entries], np.int64)
    except (OSError, ValueError) as exc:
        raise TrainingError(f"{file} cannot be read as an image list: {exc}") from None
    if not entries or any(not name for name, _ in entries):
        raise TrainingError(f"{file} is no image list: it needs a path and a label a line")
    places = [folder / name for folder in file.absolute().parents[1:3] for name in IMAGE_FOLDERS]
    top = Path(entries[0][0]).parts[0]
    root = next((place for place in (*places, file.parent) if (place / top).exists()), file.parent)
    files = [root / name for name, _ in entries]
    found = {(int(label), path.parent.name) for label, path in zip(labels, files, strict=True) if label != NO_LABEL}
    named = dict(found)
    distinct = len(found) == len(named) == len(set(named.values())) and sorted(named) == list(range(len(named)))
    classes = tuple(named[label] for label in sorted(named)) if distinct else ()
    return Source(classes, labels, lambda i: str(files[i]), lambda i: files[i].read_bytes())


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
