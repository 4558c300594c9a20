"""Tiny sets of coloured pictures, made once per session: three classes that a small network tells apart in one epoch."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from training.benchmarks import Targets, open_own
from training.checkpoint import load_trained
from training.config import Recipe
from training.export import Export, export
from training.parts import open_parts
from training.train import train

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
PER_CLASS = 40

WriteFolder = Callable[..., Path]
WriteParquet = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, so that a run in this process equals a run in a subprocess; caches of datasets in a folder of our own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(os.environ["HF_DATASETS_CACHE"]))
        yield
    torch.set_num_threads(before)


def blob(colour: Sequence[int], generator: np.random.Generator, size: int = 32) -> NDArray[np.uint8]:
    """Noise with a disc of one colour somewhere in it, (size, size, 3)."""
    rows, columns = np.mgrid[:size, :size]
    y, x = generator.integers(size // 4, 3 * size // 4, 2)
    inside = (rows - y) ** 2 + (columns - x) ** 2 < (size // 3) ** 2
    noise = generator.integers(0, 80, (size, size, 3))
    return np.where(inside[:, :, None], np.array(colour) + noise // 2, noise).astype(np.uint8)


def encode(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def encoded() -> dict[str, list[bytes]]:
    """Forty PNG files of each class."""
    generator = np.random.default_rng(0)
    return {name: [encode(blob(colour, generator)) for _ in range(PER_CLASS)] for name, colour in COLOURS.items()}


@pytest.fixture(scope="session")
def write_folder(encoded: dict[str, list[bytes]]) -> WriteFolder:
    """write_folder(root, blue=40, red=2): a directory per class with so many pictures; without counts, forty of each."""

    def write(root: Path, **counts: int) -> Path:
        for name, count in (counts or dict.fromkeys(COLOURS, PER_CLASS)).items():
            (root / name).mkdir(parents=True)
            for i in range(count):
                (root / name / f"{i:03}.png").write_bytes(encoded.get(name, encoded["red"])[i])
        return root

    return write


@pytest.fixture(scope="session")
def blobs(write_folder: WriteFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one directory per class. Read only."""
    return write_folder(tmp_path_factory.mktemp("folder") / "blobs")


@pytest.fixture(scope="session")
def write_parquet(encoded: dict[str, list[bytes]]) -> WriteParquet:
    """write_parquet(file, start, stop): those pictures of each class, as Hugging Face writes them, shuffled.

    names: the names of the label column's classes; None leaves the labels bare. extra: further columns.
    """

    def write(file: Path, start: int = 0, stop: int = PER_CLASS, names: Sequence[str] | None = tuple(COLOURS), **extra: Sequence[object]) -> Path:
        import datasets

        rows = [(data, label) for label, name in enumerate(COLOURS) for data in encoded[name][start:stop]]
        order = np.random.default_rng(1).permutation(len(rows))
        columns = {"image": [{"bytes": rows[i][0], "path": None} for i in order], "label": [rows[i][1] for i in order]}
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        for name, values in extra.items():
            table = table.add_column(name, list(values))
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(file)
        return file

    return write


@pytest.fixture
def recipe(blobs: Path) -> Recipe:
    """Two short epochs of a network four channels wide: about a second."""
    # No fewer channels: with less than 8, oneDNN 3.13 overwrites memory on CPUs that have AVX2 alone.
    return Recipe(data=str(blobs), width=8, epochs=2, batch_size=16, lr=0.05)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download meets a refused connection, on any machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of OOD pictures: each halfway between pictures of two classes. Read only."""
    folder = tmp_path_factory.mktemp("ood") / "mixtures"
    folder.mkdir()
    generator = np.random.default_rng(5)
    colours = list(COLOURS.values())
    for i in range(60):
        one, other = blob(colours[i % 3], generator), blob(colours[(i + 1) % 3], generator)
        (folder / f"{i:03}.png").write_bytes(encode(((one.astype(int) + other) // 2).astype(np.uint8)))
    return folder


@pytest.fixture(scope="session")
def trained_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with 60 calibration pictures: just enough for a PAC promise at 5 %."""
    run = tmp_path_factory.mktemp("runs") / "blobs"
    recipe = Recipe(data=str(blobs), width=8, epochs=12, batch_size=8, lr=0.02, calibration_share=0.5, validation_share=0.2, precision="fp32")
    train(recipe, run)
    return run


@pytest.fixture(scope="session")
def targets(trained_run: Path, mixtures: Path) -> Targets:
    """The run's validation part as ID test set, mixtures as far-OOD and OOD validation set."""
    parts = open_parts(load_trained(trained_run).recipe)
    return open_own(parts.validation, "blobs", str(mixtures), near={}, far={"mixtures": str(mixtures)})


@pytest.fixture(scope="session")
def bundle_folder(trained_run: Path, targets: Targets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of every score, exported for real."""
    models = tmp_path_factory.mktemp("models")
    return export(trained_run, load_trained(trained_run), targets, Export("blobs", models))
