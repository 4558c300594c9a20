import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from training import checkpoint
from training.benchmarks import open_own
from training.checkpoint import load_trained
from training.config import Recipe, TrainingError
from training.export import Export, export
from training.lineage import copies, load_initial, trained_parts
from training.measure import measure
from training.parts import open_parts
from training.release import ReleaseRefused
from training.train import Trainer, train

WriteFolder = Callable[..., Path]


@pytest.fixture
def photos(write_folder: WriteFolder, tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos")


@pytest.fixture
def short(photos: Path) -> Recipe:
    return Recipe(data=str(photos), loss="ce", width=8, epochs=1, batch_size=8, calibration_share=0.5)


@pytest.fixture
def run(short: Recipe, tmp_path: Path) -> Path:
    train(short, tmp_path / "run")
    return tmp_path / "run"


def add_a_picture(photos: Path) -> None:
    shutil.copy(photos / "blue" / "000.png", photos / "blue" / "0000.png")


def test_a_runs_parts_are_those_it_was_trained_with_wherever_they_lie_now(run: Path, photos: Path, tmp_path: Path) -> None:
    trained = load_trained(run)
    photos.rename(tmp_path / "moved")
    assert len(trained_parts(replace(trained, recipe=replace(trained.recipe, data=str(tmp_path / "moved")))).calibration) == 60


def test_no_threshold_is_drawn_from_pictures_that_changed_since_training(
    run: Path, short: Recipe, photos: Path, mixtures: Path, tmp_path: Path
) -> None:
    trained = load_trained(run)
    targets = open_own(open_parts(short).validation, "photos", None, near={}, far={"mixtures": str(mixtures)})
    before = set(map(open_parts(short).train.name, range(57)))
    add_a_picture(photos)
    now = open_parts(short).calibration
    assert {now.name(i) for i in range(len(now))} & before, "what would have happened"
    with pytest.raises(TrainingError, match=r"the pictures of .*photos are not those that the run was trained with: some have come, gone or"):
        export(run, trained, targets, Export("photos", tmp_path / "models"))
    with pytest.raises(TrainingError, match="are not those that the run was trained with"):
        measure(run, trained, targets, ["msp"])
    with pytest.raises(TrainingError, match=r"last\.pt was trained with other pictures than .*photos has now; put them back, or give another --out"):
        Trainer(short, run, checkpoint.read(run / "last.pt"))


def test_going_on_with_the_same_parts_is_allowed_however_the_folder_is_spelt(run: Path, short: Recipe, photos: Path) -> None:
    for data in (str(photos), f"{photos}/", f"{photos}/../photos"):
        recipe = replace(short, data=data, initial=str(run))
        assert load_initial(recipe, open_parts(recipe)).recipe == short


@pytest.mark.parametrize("change", [{"seed": 3}, {"calibration_share": 0.7}])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/../photos"])
def test_going_on_from_a_network_that_was_trained_on_what_now_calibrates_is_refused(
    run: Path, short: Recipe, photos: Path, spelling: str, change: dict[str, float]
) -> None:
    recipe = replace(short, data=spelling.format(photos), initial=str(run), **change)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"run was trained on \d+ of the (60|84) calibration pictures, on .*\.png among them"):
        load_initial(recipe, open_parts(recipe))
    without = replace(recipe, calibration_share=0)
    assert load_initial(without, open_parts(without)).recipe == short


def test_so_is_going_on_from_one_that_itself_went_on_from_such_a_network(run: Path, short: Recipe, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "same")
    shutil.copytree(tmp_path / "same", photos)
    later = replace(short, data=str(tmp_path / "same"), initial=str(run))
    train(later, tmp_path / "later")
    recipe = replace(short, seed=3, initial=str(tmp_path / "later"))
    with pytest.raises(TrainingError, match=r"[^e]run was trained on \d+ of the 60 calibration pictures"):
        load_initial(recipe, open_parts(recipe))


def test_a_folder_that_has_grown_cannot_go_on_without_calibration_pictures_of_its_own(
    run: Path, short: Recipe, photos: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    add_a_picture(photos)
    recipe = replace(short, initial=str(run))
    with pytest.raises(TrainingError, match=r"photos have changed since, so .*run may have been trained on \d+ of the 61 calibration pictures"):
        load_initial(recipe, open_parts(recipe))
    elsewhere = replace(recipe, calibration=str(write_folder(tmp_path / "later")))
    assert load_initial(elsewhere, open_parts(elsewhere)).recipe == short


def test_pictures_named_for_calibration_may_come_and_go(run: Path, short: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    later = write_folder(tmp_path / "later")
    recipe = replace(short, calibration=str(later))
    train(recipe, tmp_path / "named")
    add_a_picture(later)
    assert len(trained_parts(load_trained(tmp_path / "named")).calibration) == 121


def test_an_ancestor_that_is_gone_cannot_be_looked_through_and_is_told(
    run: Path, short: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(short, initial=str(run)), tmp_path / "later")
    shutil.rmtree(run)
    recipe = replace(short, initial=str(tmp_path / "later"))
    assert load_initial(recipe, open_parts(recipe)).recipe.initial == str(run)
    assert f"{run}: whether it was trained on what is set aside for calibration cannot be told: " in capsys.readouterr().out


def test_no_picture_calibrates_and_is_measured(run: Path, short: Recipe, mixtures: Path, tmp_path: Path) -> None:
    parts = open_parts(short)
    targets = open_own(parts.calibration, "photos", None, near={}, far={"mixtures": str(mixtures)})
    with pytest.raises(TrainingError, match="is in the ID test set and in the calibration set"):
        export(run, load_trained(run), targets, Export("photos", tmp_path / "models"))
    with pytest.raises(TrainingError, match="is in the ID test set and in the calibration set"):
        measure(run, load_trained(run), targets, ["msp"])


def test_what_lies_elsewhere_by_now_cannot_be_looked_through_and_is_told(
    run: Path, short: Recipe, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos.rename(tmp_path / "moved")
    recipe = replace(short, data=str(tmp_path / "moved"), initial=str(run))
    assert load_initial(recipe, open_parts(recipe)).recipe == short
    assert f"{run}: whether it was trained on what is set aside for calibration cannot be told: " in capsys.readouterr().out


def test_copies_are_found_among_many_and_no_others() -> None:
    generator = torch.Generator().manual_seed(1)
    seen, held = (torch.randn(count, 64, generator=generator) for count in (20_000, 300))
    held[7], held[250] = seen[123] * (1 + 1e-5), seen[19_999]
    held[100] = seen[5] * 1.01
    assert copies(seen, held) == [(7, 123), (250, 19_999)]


def test_an_export_tells_of_copies_of_training_pictures_among_those_that_calibrate(
    photos: Path, short: Recipe, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = tmp_path / "later"
    shutil.copytree(photos, later)
    for colour in ("green", "red"):
        for picture in (later / colour).iterdir():
            with Image.open(picture) as image:
                changed = ImageChops.offset(image, 3)
            changed.save(picture)
    recipe = replace(short, calibration=str(later))
    train(recipe, tmp_path / "run")
    targets = open_own(open_parts(recipe).validation, "photos", None, near={}, far={"mixtures": str(mixtures)})
    with suppress(ReleaseRefused):
        export(tmp_path / "run", load_trained(tmp_path / "run"), targets, Export("photos", tmp_path / "models", postprocessors=("msp",)))
    kept = len([i for i in range(len(open_parts(recipe).train)) if "/blue/" in open_parts(recipe).train.name(i)])
    assert f"{kept} of 120 calibration pictures are copies of training pictures, {later}/blue/" in capsys.readouterr().out
