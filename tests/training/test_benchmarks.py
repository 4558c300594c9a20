from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import COLOURS, blob, encode
from training.benchmarks import BENCHMARKS, open_benchmark, open_listed
from training.config import TrainingError

WriteParquet = Callable[..., Path]

COUNTS = {
    "cifar10": {"cifar100": 9000, "tiny-imagenet": 7793, "mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 35195},
    "cifar100": {"cifar10": 10000, "tiny-imagenet": 6526, "mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 33773},
    "imagenet200": {"ssb-hard": 49000, "ninco": 5879, "inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
    "imagenet1k": {"ssb-hard": 49000, "ninco": 5879, "inaturalist": 10000, "textures": 5160, "openimage-o": 15869},
}
REST = {  # ID test, OOD validation, covariate-shifted ID
    "cifar10": (9000, 1000, [10000]),
    "cifar100": (9000, 972, []),
    "imagenet200": (9000, 1763, [2000, 2000, 30000]),
    "imagenet1k": (45000, 1763, [10000, 10000, 30000]),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_openoods_sets_and_counts(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert {entry.name: entry.expected for entry in (*benchmark.near, *benchmark.far)} == COUNTS[name]
    assert (benchmark.id_test.expected, benchmark.ood_validation.expected, [entry.expected for entry in benchmark.shifted]) == REST[name]
    assert len(benchmark.near) == 2


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("cifar10", "test_cifar10 val_tin test_cifar100 test_tin test_mnist test_svhn test_texture test_places365 test_cifar10c"),
        ("cifar100", "test_cifar100 val_tin test_cifar10 test_tin test_mnist test_svhn test_texture test_places365"),
        (
            "imagenet200",
            "test_imagenet200 val_openimage_o test_ssb_hard test_ninco test_inaturalist test_textures test_openimage_o "
            "test_imagenet200_v2 test_imagenet200_c test_imagenet200_r",
        ),
        (
            "imagenet1k",
            "test_imagenet val_openimage_o test_ssb_hard test_ninco test_inaturalist test_textures test_openimage_o "
            "test_imagenet_v2 test_imagenet_c test_imagenet_r",
        ),
    ],
)
def test_the_lists_have_openoods_names(name: str, lists: str) -> None:
    folder = "imagenet" if name == "imagenet1k" else name
    benchmark = BENCHMARKS[name]
    found = [entry.imglist for entry in (benchmark.id_test, benchmark.ood_validation, *benchmark.near, *benchmark.far, *benchmark.shifted)]
    assert found == [f"{folder}/{word}.txt" for word in lists.split()]


def write_openood(root: Path, name: str, most: int = 6) -> Path:
    """OpenOOD's folders for one benchmark, with `most` pictures a set: benchmark_imglist/ and images_classic or images_largescale/."""
    benchmark, generator = BENCHMARKS[name], np.random.default_rng(0)
    for entry in (benchmark.id_test, benchmark.ood_validation, *benchmark.near, *benchmark.far, *benchmark.shifted):
        labelled = entry in (benchmark.id_test, *benchmark.shifted)
        images = "images_largescale" if "imagenet" in name and "texture" not in entry.name else "images_classic"
        lines = []
        for i in range(most):
            label = i % 3
            path = f"{entry.name}/{entry.imglist.split('/')[1]}/{list(COLOURS)[label]}/{i}.png"  # type: ignore[union-attr]
            file = root / images / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(blob(list(COLOURS.values())[label], generator, 224 if entry.whole else 32)))
            lines.append(f"{path} {label if labelled else -1}\n")
        imglist = root / "benchmark_imglist" / str(entry.imglist)
        imglist.parent.mkdir(parents=True, exist_ok=True)
        imglist.write_text("".join(lines))
    return root


@pytest.mark.parametrize("name", BENCHMARKS)
def test_openoods_own_folders_and_lists_are_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = open_benchmark(name, write_openood(tmp_path, name))
    assert list(targets.sources) == list(COUNTS[name])
    assert all(len(source) == 6 for source in (*targets.sources.values(), targets.id_test, *targets.shifted.values()))
    assert targets.ood_validation is not None
    assert targets.id_test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert targets.id_test.classes == ("blue", "green", "red")
    assert [about.images for about in targets.shifted_sets.values()] == [6] * len(BENCHMARKS[name].shifted)
    said = capsys.readouterr().out
    for key, count in COUNTS[name].items():
        assert f"{key} is partial: 6 of {count} pictures" in said


def test_pictures_that_a_list_names_and_that_are_not_there_are_counted_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_openood(tmp_path, "cifar10")
    for i in (1, 4):
        (root / f"images_classic/svhn/test_svhn.txt/green/{i}.png").unlink()
    for file in (root / "images_classic" / "mnist").rglob("*.png"):
        file.unlink()
    targets = open_benchmark("cifar10", root)
    said = capsys.readouterr().out
    assert "svhn is partial: 4 of 26032 pictures" in said
    assert "mnist is absent: 0 of 70000 pictures" in said
    assert targets.ood_sets["mnist"].images == 0
    assert "mnist" not in targets.sources


def test_imagenet_c_is_taken_at_its_own_size(tmp_path: Path) -> None:
    from training.config import Recipe

    targets = open_benchmark("imagenet200", write_openood(tmp_path, "imagenet200"))
    spec = Recipe(data="set", network="resnet18_224x224").input
    source = targets.shifted["imagenet-c"]
    from PIL import Image

    assert np.array_equal(source.subset(np.array([2])).pixels(0, spec), np.asarray(Image.open(source.name(2))))
    assert not np.array_equal(replace(source, whole=False).pixels(2, spec), np.asarray(Image.open(source.name(2))))


def test_a_network_of_another_size_sees_all_of_imagenet_c(tmp_path: Path) -> None:
    from training.config import Recipe

    source = open_benchmark("imagenet200", write_openood(tmp_path, "imagenet200")).shifted["imagenet-c"]
    spec = Recipe(data="set", network="resnet18_224x224", size=64).input
    from PIL import Image

    assert np.array_equal(source.pixels(2, spec), np.asarray(Image.open(source.name(2)).resize((64, 64), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("listed", "folder", "best", "said"),
    [
        (6, 9, "list", ""),
        (4, 6, "folder", ""),
        (4, 5, "folder", "svhn is partial: 5 of 6 pictures"),
        (4, 9, "list", "svhn is partial: 4 of 6 pictures"),
        (0, 9, "folder", "svhn is larger than its list: 9 of 6 pictures"),
    ],
)
def test_a_set_is_taken_where_it_is_as_listed(
    listed: int, folder: int, best: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_openood(tmp_path, "cifar10", 6)
    entry = replace(next(entry for entry in BENCHMARKS["cifar10"].far if entry.name == "svhn"), expected=6)
    for file in sorted((root / "images_classic/svhn").rglob("*.png"))[listed:]:
        file.unlink()
    (root / "svhn").mkdir()
    for i in range(folder):
        (root / "svhn" / f"{i}.png").write_bytes(encode(blob((255, 0, 0), np.random.default_rng(i), 32)))
    source = open_listed(entry, root, "svhn")
    assert source is not None
    assert ("images_classic" in source.name(0)) == (best == "list")
    assert capsys.readouterr().out.strip() == said


def test_a_shifted_set_of_a_benchmark_needs_the_classes_of_the_id_test_set(tmp_path: Path) -> None:
    root = write_openood(tmp_path, "imagenet200")
    imglist = root / "benchmark_imglist/imagenet200/test_imagenet200_r.txt"
    imglist.write_text(imglist.read_text().replace("/green/", "/grey/"))
    (root / "images_largescale/imagenet-r/test_imagenet200_r.txt/green").rename(root / "images_largescale/imagenet-r/test_imagenet200_r.txt/grey")
    with pytest.raises(TrainingError, match=r"imagenet-r under .* needs the classes of the ID test set: blue, green, red; it has blue, grey, red"):
        open_benchmark("imagenet200", root)


def test_absent_and_partial_sets_are_named_with_their_counts(
    mixtures: Path, write_parquet: WriteParquet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "cifar10" / "test.parquet", openood_cifar10=["test"] * 120)
    (tmp_path / "textures").symlink_to(mixtures)
    found = open_benchmark("cifar10", tmp_path)
    said = capsys.readouterr().out
    assert "the ID test set cifar10 is partial: 120 of 9000 pictures" in said
    assert "the OOD validation set tiny-imagenet is absent: 0 of 1000 pictures" in said
    assert "svhn is absent: 0 of 26032 pictures" in said
    assert "textures is partial: 60 of 5640 pictures" in said
    assert found.id_expected == 9000
    assert found.ood_sets["svhn"].images == 0
    assert list(found.sources) == ["textures"]


def test_a_set_without_the_column_of_the_list_is_absent_and_the_reason_said(
    write_parquet: WriteParquet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "cifar100" / "test.parquet", openood_cifar100=["test"] * 120)
    write_parquet(tmp_path / "tiny-imagenet" / "validation.parquet")
    found = open_benchmark("cifar100", tmp_path)
    assert found.ood_sets["tiny-imagenet"].images == 0
    assert "tiny-imagenet is absent: 0 of 6526 pictures" in (said := capsys.readouterr().out)
    assert "has no column 'openood_cifar100'" in said


def test_stand_ins_are_named_apart_and_belong_to_no_mean(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "cifar10" / "test.parquet", openood_cifar10=["test"] * 120)
    write_parquet(tmp_path / "chars74k" / "streetview.parquet")
    found = open_benchmark("cifar10", tmp_path)
    assert found.ood_sets["chars74k"].group == "stand-in"
    assert found.ood_sets["chars74k"].expected is None
    assert found.ood_sets["svhn"].images == 0


def test_cifar10_c_is_generated_under_its_own_name_where_it_is_absent(
    write_parquet: WriteParquet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "cifar10" / "test.parquet", openood_cifar10=["test"] * 120)
    found = open_benchmark("cifar10", tmp_path)
    assert found.shifted_sets["cifar10-c"].images == 0
    assert len(found.shifted["cifar10-c-generated"]) == 120
    assert np.array_equal(found.shifted["cifar10-c-generated"].labels, found.id_test.labels)
    assert "cifar10-c is absent: 0 of 10000 pictures" in capsys.readouterr().out
    write_parquet(tmp_path / "cifar10-c" / "test.parquet")
    assert list(open_benchmark("cifar10", tmp_path).shifted) == ["cifar10-c"]


def test_a_benchmark_without_its_id_test_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the ID test set of imagenet1k is absent: .* needs benchmark_imglist/imagenet/test_imagenet\.txt or"):
        open_benchmark("imagenet1k", tmp_path)


def test_an_unknown_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'cifar11' is not known; known are cifar10, cifar100, imagenet200, imagenet1k"):
        open_benchmark("cifar11", tmp_path)
