import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.bundle.preprocess import InputSpec, decode
from training.config import TrainingError
from training.data import free_bytes, load
from training.parts import check_classes, hold_out, set_aside
from training.sources import Source, from_parquet, open_source

SPEC = InputSpec(size=32, resize=32, crop=32)
WriteFolder = Callable[..., Path]
WriteParquet = Callable[..., Path]


def opened(where: Path | str, split: str | None = "train") -> Source:
    source = open_source(str(where), split)
    assert source is not None
    return source


# --- a folder with a directory per class ---


def test_classes_are_the_names_of_the_directories(blobs: Path) -> None:
    source = opened(blobs)
    assert source.classes == ("blue", "green", "red")
    assert np.bincount(source.labels).tolist() == [40, 40, 40]
    assert all(Path(source.name(i)).parent.name == source.classes[source.labels[i]] for i in range(len(source)))


def test_pictures_may_lie_deeper_and_other_files_do_not_count(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=2, red=1)
    (root / "blue" / "more").mkdir()
    (root / "blue" / "000.png").rename(root / "blue" / "more" / "UPPER.PNG")
    (root / "red" / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    source = opened(root)
    assert source.classes == ("blue", "red")
    assert source.labels.tolist() == [0, 0, 1]


def test_train_val_and_test_folders_are_the_splits(write_folder: WriteFolder, tmp_path: Path) -> None:
    for folder, count in (("train", 5), ("validation", 3), ("test", 2)):
        write_folder(tmp_path / "set" / folder, blue=count, red=count)
    assert [len(opened(tmp_path / "set", split)) for split in ("train", "val", "test")] == [10, 6, 4]


def test_a_folder_without_splits_has_no_validation_and_no_test_part(blobs: Path) -> None:
    assert open_source(str(blobs), "val") is None
    assert open_source(str(blobs), "test") is None


@pytest.mark.parametrize("names", [("train", "bus"), ("valid", "invalid"), ("test", "probe")])
def test_a_class_may_be_named_like_a_split(write_folder: WriteFolder, tmp_path: Path, names: tuple[str, str]) -> None:
    root = write_folder(tmp_path / "set", **dict.fromkeys(names, 2))
    assert opened(root).classes == tuple(sorted(names))
    assert open_source(str(root), "val") is None
    assert open_source(str(root), "test") is None


def test_test_and_val_folders_without_a_train_folder_are_not_taken_for_classes(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "val", blue=2, red=2)
    write_folder(tmp_path / "set" / "test", blue=2, red=2)
    with pytest.raises(TrainingError, match="no train"):
        open_source(str(tmp_path / "set"), "train")


def test_a_class_without_a_picture_is_named(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=2, red=0)
    with pytest.raises(TrainingError, match="class 'red' has no picture"):
        open_source(str(root), "train")


def test_a_folder_of_pictures_without_classes_is_refused_for_training(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=2)
    with pytest.raises(TrainingError, match="no directories; one per class"):
        open_source(str(root / "blue"), "train")


def test_without_a_split_every_picture_below_counts_and_has_no_label(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=2, red=3)
    (root / "empty").mkdir()
    assert opened(root, None).labels.tolist() == [-1] * 5
    assert len(opened(root / "blue", None)) == 2


def test_pictures_beside_directories_count_without_a_split(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=2)
    (root / "blue" / "001.png").rename(root / "top.png")
    assert len(opened(root, None)) == 2


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no picture"):
        open_source(str(tmp_path), None)


def test_data_that_is_nothing_at_all_is_named() -> None:
    with pytest.raises(TrainingError, match="'no/such/set' is no file, no folder and no torchvision set"):
        open_source("no/such/set", "train")


# --- Parquet ---


def test_parquet_classes_are_the_names_in_its_label_column(write_parquet: WriteParquet, tmp_path: Path, encoded: dict[str, list[bytes]]) -> None:
    source = opened(write_parquet(tmp_path / "train.parquet"))
    assert source.classes == ("blue", "green", "red")
    assert np.bincount(source.labels).tolist() == [40, 40, 40]
    for row in (0, 57, 119):
        assert source.read(row) in encoded[source.classes[source.labels[row]]]


def test_bare_parquet_labels_are_named_after_their_values(write_parquet: WriteParquet, tmp_path: Path) -> None:
    assert opened(write_parquet(tmp_path / "train.parquet", 0, 2, names=None)).classes == ("0", "1", "2")


def test_a_folder_of_parquet_has_its_splits_in_the_file_names(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train-00000-of-00002.parquet", 0, 5)
    write_parquet(tmp_path / "set" / "train-00001-of-00002.parquet", 5, 7)
    write_parquet(tmp_path / "set" / "validation-00000-of-00001.parquet", 7, 10)
    write_parquet(tmp_path / "set" / "test.parquet", 10, 11)
    assert [len(opened(tmp_path / "set", split)) for split in ("train", "val", "test")] == [21, 9, 3]
    assert len(opened(tmp_path / "set", None)) == 33


def test_a_folder_of_parquet_without_training_rows_is_refused(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "test.parquet", 0, 1)
    with pytest.raises(TrainingError, match=r"no train\*\.parquet"):
        open_source(str(tmp_path / "set"), "train")


def test_a_condition_keeps_the_rows_that_match(write_parquet: WriteParquet, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "test.parquet", 0, 4, part=["val", "test"] * 6, fold=[0, 0, 1] * 4)
    everything, chosen = opened(file), opened(f"{file}#part=val")
    assert [chosen.read(i) for i in range(len(chosen))] == [everything.read(i) for i in range(0, 12, 2)]
    assert chosen.labels.tolist() == everything.labels[::2].tolist()
    assert chosen.classes == everything.classes
    assert len(opened(f"{file}#fold=1")) == 4


def test_a_row_is_named_by_its_number_in_its_own_file(write_parquet: WriteParquet, tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "set" / "train-0.parquet", 0, 2)
    second = write_parquet(tmp_path / "set" / "train-1.parquet", 2, 4, part=["a"] * 5 + ["b"])
    source = opened(tmp_path / "set")
    assert source.name(5) == f"{first}, row 5"
    assert source.name(7) == f"{second}, row 1"
    assert opened(f"{second}#part=b").name(0) == f"{second}, row 5"


def test_a_condition_on_a_column_that_is_not_there_lists_those_that_are(write_parquet: WriteParquet, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no column 'part'; it has image, label"):
        open_source(f"{write_parquet(tmp_path / 'a.parquet', 0, 1)}#part=val", "train")


def test_a_condition_that_no_row_meets_is_refused(write_parquet: WriteParquet, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no row with label=9"):
        open_source(f"{write_parquet(tmp_path / 'a.parquet', 0, 1)}#label=9", "train")


def test_a_condition_on_a_folder_of_pictures_is_refused(blobs: Path) -> None:
    with pytest.raises(TrainingError, match="split=val is for Parquet"):
        open_source(f"{blobs}#split=val", "train")


def test_a_path_may_hold_signs_that_mean_something_elsewhere(write_parquet: WriteParquet, write_folder: WriteFolder, tmp_path: Path) -> None:
    assert len(opened(write_parquet(tmp_path / "a [1]*#x=y" / "train.parquet", 0, 2))) == 6
    assert len(opened(tmp_path / "a [1]*#x=y")) == 6
    assert len(opened(write_folder(tmp_path / "b #2", blue=2, red=2))) == 4


def test_a_rewritten_parquet_file_is_read_anew(write_parquet: WriteParquet, tmp_path: Path) -> None:
    assert len(opened(write_parquet(tmp_path / "train.parquet", 0, 3))) == 9
    assert len(opened(write_parquet(tmp_path / "train.parquet", 0, 5))) == 15


def test_parquet_without_hugging_faces_metadata_is_read_too(tmp_path: Path, encoded: dict[str, list[bytes]]) -> None:
    images = [{"bytes": encoded["blue"][0], "path": "b.png"}, {"bytes": encoded["red"][0], "path": "r.png"}]
    pq.write_table(pa.table({"img": images, "label": ["sea", "fire"]}), tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")
    assert source.classes == ("fire", "sea")
    assert source.labels.tolist() == [1, 0]
    assert source.read(1) == encoded["red"][0]


def test_a_parquet_cell_with_only_a_path_is_read_from_beside_the_file(tmp_path: Path, encoded: dict[str, list[bytes]]) -> None:
    (tmp_path / "b.png").write_bytes(encoded["blue"][0])
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "b.png"}, {"bytes": b"", "path": None}], "label": [0, 1]}), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet").read(0) == encoded["blue"][0]


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}], ids=str)
def test_an_empty_parquet_cell_is_named_as_unreadable(tmp_path: Path, encoded: dict[str, list[bytes]], cell: object) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": encoded["blue"][0], "path": None}, cell], kind)
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(TrainingError, match=r"a\.parquet, row 1 cannot be read"):
        load(opened(tmp_path / "a.parquet"), SPEC, "pictures")


@pytest.mark.parametrize("labels", [[0, None], [0, -1]], ids=str)
def test_a_row_without_a_label_cannot_be_learnt(tmp_path: Path, encoded: dict[str, list[bytes]], labels: list[int | None]) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = [{"bytes": encoded["blue"][i], "path": None} for i in range(2)]
    datasets.Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(TrainingError, match=r"a\.parquet, row 1 has no label"):
        check_classes(opened(tmp_path / "a.parquet"), "a.parquet")


def test_parquet_without_labels_can_only_be_an_ood_set(tmp_path: Path, encoded: dict[str, list[bytes]]) -> None:
    pq.write_table(pa.table({"image": [{"bytes": encoded["blue"][0], "path": None}]}), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", None).labels.tolist() == [-1]
    with pytest.raises(TrainingError, match="0 classes"):
        check_classes(opened(tmp_path / "a.parquet"), "a.parquet")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not at all")
    with pytest.raises(TrainingError, match=r"a\.parquet cannot be read as Parquet"):
        open_source(str(tmp_path / "a.parquet"), "train")


def test_parquet_without_pictures_lists_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(TrainingError, match=r"no image column .* it has text, label"):
        from_parquet([tmp_path / "a.parquet"])


# --- torchvision ---


def write_mnist(root: Path, labels: list[int]) -> None:
    """MNIST as torchvision keeps it once it is downloaded: IDX files of 28x28 grey pictures."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", len(labels)), ("t10k", 2)):
        pixels = np.arange(count * 784, dtype=np.uint64).astype(np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(labels[:count]))


def test_a_torchvision_set_is_found_by_name_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "data", list(range(10)) * 3)
    monkeypatch.chdir(tmp_path)
    train, test = opened("mnist"), opened("MNIST", "test")
    assert train.classes[:2] == ("0 - zero", "1 - one")
    assert train.labels.tolist() == list(range(10)) * 3
    assert len(test) == 2
    assert open_source("mnist", "val") is None
    image = train.read(3)
    assert isinstance(image, Image.Image)
    assert train.name(3) == "MNIST[3]"
    pixels = load(train, SPEC, "pictures").take(torch.tensor([3]))
    assert pixels.shape == (1, 32, 32, 3)


def test_a_torchvision_set_of_files_names_the_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: dict[str, list[bytes]]) -> None:
    root = tmp_path / "data" / "dtd" / "dtd"
    for name in ("banded", "woven"):
        (root / "images" / name).mkdir(parents=True)
        (root / "images" / name / "0.jpg").write_bytes(encoded["blue"][0])
    (root / "labels").mkdir()
    (root / "labels" / "train1.txt").write_text("banded/0.jpg\nwoven/0.jpg\n")
    (root / "images" / "woven" / "0.jpg").write_bytes(encoded["blue"][0][:200])
    monkeypatch.chdir(tmp_path)
    source = opened("dtd")
    assert source.classes == ("banded", "woven")
    assert source.labels.tolist() == [0, 1]
    with pytest.raises(TrainingError, match=r"DTD\[1\] cannot be read"):
        load(source, SPEC, "pictures")


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist", "flowers102"])
def test_a_torchvision_set_that_cannot_be_downloaded_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=rf"(?i)torchvision's {name} cannot be had: [^\n]+$"):
        open_source(name, "train")


@pytest.mark.parametrize("name", ["fakedata", "cocodetection", "emnist", "ImageFolder"])
def test_a_torchvision_set_without_download_or_split_says_to_give_its_folder(name: str) -> None:
    with pytest.raises(TrainingError, match="give its folder instead"):
        open_source(name, "train")


# --- decoding ---


def test_loaded_pictures_are_what_the_service_decodes(blobs: Path) -> None:
    source = opened(blobs)
    pictures = load(source, SPEC, "pictures")
    rows = torch.tensor([0, 50, 119])
    expected = [decode(Path(source.name(int(row))).read_bytes(), SPEC) for row in rows]
    assert np.array_equal(pictures.take(rows).numpy(), np.stack(expected))


def test_streamed_batches_equal_those_kept_in_memory(blobs: Path) -> None:
    kept, streamed = load(opened(blobs), SPEC, "pictures"), load(opened(blobs), SPEC, "pictures", fraction=0)
    assert kept.tensor is not None
    assert streamed.tensor is None
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0)).split(16)
    for (images, labels), (other, other_labels) in zip(kept.batches(order), streamed.batches(order), strict=True):
        assert torch.equal(images, other)
        assert torch.equal(labels, other_labels)


def test_batches_come_in_the_order_asked_for(blobs: Path) -> None:
    pictures = load(opened(blobs), SPEC, "pictures")
    order = [torch.tensor([3, 1]), torch.tensor([80]), torch.tensor([3])]
    found = list(pictures.batches(order))
    assert [labels.tolist() for _, labels in found] == [[0, 0], [2], [0]]
    assert torch.equal(found[0][0][0], found[2][0][0])
    assert list(pictures.batches([])) == []


@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_an_unreadable_picture_is_named_with_its_path(write_folder: WriteFolder, tmp_path: Path, fraction: float) -> None:
    root = write_folder(tmp_path / "set", blue=3, red=3)
    broken = root / "red" / "001.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(TrainingError, match=f"{broken} cannot be read") as refused:
        list(load(opened(root), SPEC, "pictures", fraction=fraction).batches(torch.arange(6).split(2)))
    assert "`train --skip-unreadable` leaves such pictures out" in str(refused.value)


def test_all_unreadable_pictures_are_counted_and_the_first_ones_named_at_once(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=8, red=3)
    broken = [*sorted((root / "blue").iterdir())[:6], root / "red" / "002.png"]
    for file in broken:
        file.write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"training pictures: 7 of 11 cannot be read") as refused:
        load(opened(root), SPEC, "training pictures")
    assert [file for file in broken if str(file) in str(refused.value)] == broken[:5]


@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_unreadable_pictures_are_skipped_and_counted_on_request(
    write_folder: WriteFolder, tmp_path: Path, fraction: float, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "set", blue=3, red=3)
    for name in ("blue/000.png", "red/001.png"):
        (root / name).write_bytes(b"no picture")
    pictures = load(opened(root), SPEC, "training pictures", skip_unreadable=True, fraction=fraction)
    assert pictures.labels.tolist() == [0, 0, 1, 1]
    assert [Path(pictures.source.name(i)).name for i in range(4)] == ["001.png", "002.png", "000.png", "002.png"]
    assert np.array_equal(pictures.take(torch.tensor([2]))[0].numpy(), decode((root / "red" / "000.png").read_bytes(), SPEC))
    assert "training pictures: 2 of 6 pictures could not be read" in capsys.readouterr().out


def test_a_set_with_no_readable_picture_is_refused_even_when_skipping(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=1, red=1)
    for file in root.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(TrainingError, match="not one of 2 pictures"):
        load(opened(root), SPEC, "pictures", skip_unreadable=True)


def test_a_directory_named_like_a_picture_is_not_one(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=1, red=1)
    (root / "red" / "folder.png").mkdir()
    assert len(opened(root)) == 2


def test_free_memory_is_what_the_machine_has_left() -> None:
    assert 2**20 < free_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_processes_on_one_machine_share_its_memory(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 120 * 32 * 32 * 3
    fraction = 4 * needed / free_bytes()
    assert load(opened(blobs), SPEC, "pictures", fraction=fraction).tensor is not None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert load(opened(blobs), SPEC, "pictures", fraction=fraction).tensor is None


# --- holding out ---


SIZES = {"counts": st.lists(st.integers(1, 300), min_size=2, max_size=8), "limit": st.integers(1, 500), "seed": st.integers(0, 100)}


@given(share=st.floats(0.01, 0.9), **SIZES)
def test_holding_out_splits_each_class_alike_and_keeps_the_limit(counts: list[int], share: float, limit: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held = hold_out(labels, share, limit, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    found = np.bincount(labels[held], minlength=len(counts))
    assert found.min() >= 1
    assert found.sum() <= max(limit, len(counts))
    share = min(share, limit / len(labels))
    if share * min(counts) >= 1:
        assert all(abs(got - share * count) <= 1 for got, count in zip(found, counts, strict=True))


@given(share=st.floats(0, 0.9), **SIZES)
def test_setting_aside_takes_the_same_share_of_all_and_of_each_class_to_a_picture(counts: list[int], share: float, limit: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, aside = set_aside(labels, share, limit, seed)
    assert sorted([*kept, *aside]) == list(range(len(labels)))
    share = min(share, limit / len(labels))
    assert abs(len(aside) - share * len(labels)) <= 0.5 + 1e-6
    assert all(abs(got - share * count) < 1 + 1e-6 for got, count in zip(np.bincount(labels[aside], minlength=len(counts)), counts, strict=True))


def test_small_classes_have_no_more_than_their_share_of_calibration() -> None:
    labels = np.concatenate([np.zeros(1000, np.int64), np.repeat(np.arange(1, 501), 4)])
    _, aside = set_aside(labels, 0.1, 5000, 0)
    assert (len(aside), (labels[aside] == 0).sum()) == (300, 100)


@pytest.mark.parametrize("part", [hold_out, set_aside])
def test_ten_percent_of_fifty_thousand_are_five_thousand_of_them(part: Callable[..., Any]) -> None:
    labels = np.repeat(np.arange(10), 5000)
    _, held = part(labels, 0.1, 5000, 0)
    assert np.bincount(labels[held]).tolist() == [500] * 10


@pytest.mark.parametrize("part", [hold_out, set_aside])
def test_what_is_held_out_depends_on_the_seed_alone(part: Callable[..., Any]) -> None:
    labels = np.repeat(np.arange(3), 40)
    first, again, other = (part(labels, 0.1, 5000, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("part", [hold_out, set_aside])
def test_a_held_out_part_does_not_move_between_releases(part: Callable[..., Any]) -> None:
    labels = np.repeat(np.arange(3), 40)
    assert part(labels, 0.1, 5000, 0)[1].tolist() == [4, 11, 24, 27, 45, 54, 65, 78, 97, 113, 115, 116]
