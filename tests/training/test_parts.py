from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.config import PRESETS, Recipe, TrainingError
from training.parts import check_pretrained, open_parts
from training.sources import Source

WriteFolder = Callable[..., Path]
WriteParquet = Callable[..., Path]


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_the_three_parts_are_disjoint_and_complete(recipe: Recipe) -> None:
    parts = open_parts(recipe)
    everything = [*names(parts.train), *names(parts.validation), *names(parts.calibration)]
    assert len(everything) == len(set(everything)) == 120
    assert parts.test is None


def test_calibration_takes_ten_percent_of_every_class(recipe: Recipe) -> None:
    assert np.bincount(open_parts(recipe).calibration.labels).tolist() == [4, 4, 4]


def test_without_a_calibration_share_every_picture_is_trained_on(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    validation = str(write_folder(tmp_path / "val", blue=2, green=2, red=2))
    parts = open_parts(replace(recipe, calibration_share=0, validation=validation))
    assert (len(parts.train), len(parts.calibration)) == (120, 0)


def test_the_same_recipe_gives_the_same_parts(recipe: Recipe) -> None:
    first, again = open_parts(recipe), open_parts(recipe)
    for one, other in ((first.train, again.train), (first.validation, again.validation), (first.calibration, again.calibration)):
        assert names(one) == names(other)
        assert one.labels.tolist() == other.labels.tolist()


def test_another_seed_gives_other_parts(recipe: Recipe) -> None:
    assert names(open_parts(recipe).calibration) != names(open_parts(replace(recipe, seed=1)).calibration)


def test_the_calibration_part_does_not_depend_on_where_validation_comes_from(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    elsewhere = replace(recipe, validation=str(write_folder(tmp_path / "val", blue=2, green=2, red=2)))
    assert names(open_parts(elsewhere).calibration) == names(open_parts(recipe).calibration)


def test_a_named_validation_set_leaves_all_but_calibration_for_training(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    parts = open_parts(replace(recipe, validation=str(write_folder(tmp_path / "val", blue=2, green=2, red=2))))
    assert len(parts.train) == 108
    assert len(parts.validation) == 6
    assert all(name.startswith(str(tmp_path)) for name in names(parts.validation))


def test_named_calibration_pictures_leave_all_but_validation_for_training(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    parts = open_parts(replace(recipe, calibration=str(write_folder(tmp_path / "later", blue=2, green=2, red=2))))
    assert len(parts.train) + len(parts.validation) == 120
    assert len(parts.calibration) == 6
    assert all(name.startswith(str(tmp_path)) for name in names(parts.calibration))


def test_a_picture_cannot_calibrate_and_be_in_another_part(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is in the training data and in the calibration set"):
        open_parts(replace(recipe, calibration=recipe.data))
    elsewhere = str(write_folder(tmp_path / "val", blue=2, green=2, red=2))
    with pytest.raises(TrainingError, match="is in the validation set and in the calibration set"):
        open_parts(replace(recipe, calibration=elsewhere, validation=elsewhere))


def test_the_digest_tells_when_pictures_have_come_gone_or_moved_but_not_where_they_lie(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=20, red=20)
    first = open_parts(Recipe(data=str(root))).digest()
    root.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert open_parts(Recipe(data=str(moved))).digest() == first
    assert open_parts(Recipe(data=str(moved), seed=1)).digest() != first
    picture = next((moved / "blue").iterdir())
    picture.rename(moved / "red" / f"again-{picture.name}")
    assert open_parts(Recipe(data=str(moved))).digest() != first


def test_weights_that_were_trained_on_imagenet_leave_none_of_it_for_calibration() -> None:
    recipe = Recipe(data="imagenet", **PRESETS["imagenet1k"])
    check_pretrained(recipe, 1000)
    check_pretrained(replace(recipe, calibration_share=0.1), 200)
    check_pretrained(replace(recipe, calibration_share=0.1, calibration="others"), 1000)
    with pytest.raises(TrainingError, match=r"calibration_share is 0\.1, but torchvision's weights for 1000 classes were trained on"):
        check_pretrained(replace(recipe, calibration_share=0.1), 1000)


def test_the_datas_own_validation_and_test_folders_are_used(write_folder: WriteFolder, tmp_path: Path) -> None:
    for folder, count in (("train", 20), ("val", 3), ("test", 2)):
        write_folder(tmp_path / "set" / folder, blue=count, red=count)
    parts = open_parts(Recipe(data=str(tmp_path / "set")))
    assert parts.test is not None
    assert [len(part) for part in (parts.train, parts.calibration, parts.validation, parts.test)] == [36, 4, 6, 4]


def test_rows_of_one_parquet_file_can_be_told_apart_by_a_condition(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", 0, 20)
    write_parquet(tmp_path / "set" / "test.parquet", 20, 24, part=["val", "test"] * 6)
    parts = open_parts(Recipe(data=str(tmp_path / "set"), validation=f"{tmp_path / 'set' / 'test.parquet'}#part=val"))
    assert len(parts.validation) == 6
    assert len(parts.train) + len(parts.calibration) == 60


@pytest.mark.parametrize("where", ["set", "set/train.parquet#fold=1"])
def test_a_picture_cannot_be_in_training_and_validation(write_parquet: WriteParquet, tmp_path: Path, where: str) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", 0, 20, fold=[0, 1] * 30)
    with pytest.raises(TrainingError, match=r"train\.parquet, row [01] is in the training data and in the validation set"):
        open_parts(Recipe(data=str(tmp_path / "set"), validation=str(tmp_path / where)))


def test_one_class_is_not_enough(write_folder: WriteFolder, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 2 are needed"):
        open_parts(Recipe(data=str(write_folder(tmp_path / "set", blue=5))))


def test_a_class_too_small_for_training_and_validation_is_named(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=20, red=1)
    with pytest.raises(TrainingError, match="class 'red' has no picture in the training part"):
        open_parts(Recipe(data=str(root)))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_with_other_classes_is_refused(write_folder: WriteFolder, tmp_path: Path, part: str) -> None:
    write_folder(tmp_path / "set" / "train", blue=20, green=20, red=20)
    write_folder(tmp_path / "set" / part, blue=2, red=2)
    word = {"val": "validation", "test": "test"}[part]
    with pytest.raises(TrainingError, match=f"the {word} part has other classes than training: without green"):
        open_parts(Recipe(data=str(tmp_path / "set")))


def test_a_named_validation_set_with_other_classes_is_refused(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "val", blue=2, green=2, purple=2, red=2)
    with pytest.raises(TrainingError, match="has other classes than training: with purple"):
        open_parts(replace(recipe, validation=str(root)))


def test_a_test_part_may_lack_pictures_of_a_class(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", 0, 20)
    write_parquet(tmp_path / "set" / "test.parquet", 20, 24)
    import datasets

    table = datasets.Dataset.from_parquet(str(tmp_path / "set" / "test.parquet")).filter(lambda row: row["label"] != 1)
    table.to_parquet(tmp_path / "set" / "test.parquet")
    parts = open_parts(Recipe(data=str(tmp_path / "set")))
    assert parts.test is not None
    assert set(parts.test.labels.tolist()) == {0, 2}


def test_a_data_set_with_a_test_part_only_is_refused(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "test.parquet", 0, 2)
    with pytest.raises(TrainingError, match="no train"):
        open_parts(Recipe(data=str(tmp_path / "set")))
