"""Image lists, as in OpenOOD's benchmark_imglist. Folders, Parquet and torchvision's sets are in test_data."""

from pathlib import Path

import pytest

from tests.training.test_data import WriteFolder
from training.config import Recipe, TrainingError
from training.parts import open_parts
from training.sources import open_source


def write_list(root: Path, name: str, pictures: dict[str, int]) -> Path:
    file = root / "benchmark_imglist" / "blobs" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{path} {label}\n" for path, label in pictures.items()))
    return file


@pytest.mark.parametrize("folder", ["images_classic", "images_largescale"])
def test_a_list_finds_its_pictures_beside_the_folder_of_the_lists(write_folder: WriteFolder, tmp_path: Path, folder: str) -> None:
    write_folder(tmp_path / folder / "blobs" / "train", blue=2, red=2)
    file = write_list(tmp_path, "train.txt", {"blobs/train/red/001.png": 1, "blobs/train/blue/000.png": 0})
    source = open_source(str(file), "train")
    assert source is not None
    assert source.classes == ("blue", "red")
    assert source.labels.tolist() == [1, 0]
    assert source.read(0) == (tmp_path / folder / "blobs/train/red/001.png").read_bytes()
    assert open_source(str(file), "test") is None


def test_a_list_may_lie_beside_its_pictures(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "birds with spaces", blue=1, red=1)
    (tmp_path / "list.txt").write_text("birds with spaces/blue/000.png -1\n\nbirds with spaces/red/000.png -1\n")
    source = open_source(str(tmp_path / "list.txt"))
    assert source is not None
    assert (source.classes, source.labels.tolist()) == ((), [-1, -1])
    assert source.read(1) == (tmp_path / "birds with spaces/red/000.png").read_bytes()


def test_a_run_trains_on_lists_and_a_flat_validation_list_takes_the_classes_of_training(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "images_classic" / "blobs" / "train", blue=20, red=20)
    write_folder(tmp_path / "images_classic" / "blobs" / "val", all=4)
    train = {f"blobs/train/{name}/{i:03}.png": label for label, name in enumerate(("blue", "red")) for i in range(20)}
    valid = {f"blobs/val/all/{i:03}.png": i % 2 for i in range(4)}
    recipe = Recipe(data=str(write_list(tmp_path, "train.txt", train)), validation=str(write_list(tmp_path, "val.txt", valid)))
    parts = open_parts(recipe)
    assert parts.train.classes == parts.validation.classes == ("blue", "red")
    assert parts.validation.labels.tolist() == [0, 1, 0, 1]


def test_a_list_of_flat_pictures_numbers_its_classes(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "images_classic" / "flat", all=30)
    file = write_list(tmp_path, "train.txt", {f"flat/all/{i:03}.png": i % 3 for i in range(30)})
    assert open_parts(Recipe(data=str(file))).train.classes == ("0", "1", "2")


def test_labels_beyond_the_classes_of_training_are_refused(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "images_classic" / "flat", all=30)
    train = write_list(tmp_path, "train.txt", {f"flat/all/{i:03}.png": i % 3 for i in range(27)})
    valid = write_list(tmp_path, "val.txt", {f"flat/all/{i:03}.png": i for i in range(27, 30)})
    with pytest.raises(TrainingError, match=r"\.png has no label"):
        open_parts(Recipe(data=str(train), validation=str(valid)))


@pytest.mark.parametrize("text", ["", "cat.png\n", "cat.png three\n", "\n\n"])
def test_what_is_no_image_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(TrainingError, match="image list"):
        open_source(str(tmp_path / "list.txt"))


def test_a_picture_that_a_training_list_names_and_that_is_missing_is_named(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "images_classic" / "blobs", blue=2)
    file = write_list(tmp_path, "train.txt", {"blobs/blue/000.png": 0, "blobs/blue/007.png": 0})
    source = open_source(str(file))
    assert source is not None
    with pytest.raises(TrainingError, match=r"007\.png cannot be read: .*No such file"):
        source.pixels(1, Recipe(data="set").input)
