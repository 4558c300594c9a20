import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import page as pages
from benchmarks import reproduce
from benchmarks.page import essentials, page
from benchmarks.reproduction import Reproduction, Run, join, without_places
from service.bundle.evaluation import Evaluation, Search
from training.checkpoint import read
from training.postprocessors import EVALUATED_ONLY, REGISTRY

WriteParquet = Callable[..., Path]
EVALUATION = Evaluation.model_validate_json((Path(__file__).parents[2] / "models/cifar10-airbench/1/evaluation.json").read_bytes())


def numbers(*seeds: int, command: str = "python -m benchmarks.reproduce", **changed: object) -> Reproduction:
    """Of cross-entropy and ELogitNorm, with the committed bundle's evaluation as every run's."""
    runs = tuple(Run(variant=variant, seed=seed, seconds=60, best=EVALUATION, last=EVALUATION) for seed in seeds for variant in ("ce", "elogitnorm"))
    found = Reproduction(command=command, code_version="1", hardware="2 CPU cores", width=16, epochs=8, runs=runs)
    return found.model_copy(update=changed)


def searched(found: Reproduction) -> Reproduction:
    search = Search(id_images=1, ood_images=1, choices={})
    runs = tuple(run.model_copy(update={"best": run.best.model_copy(update={"search": search})}) for run in found.runs)
    return found.model_copy(update={"runs": runs})


@pytest.fixture
def root(mixtures: Path, write_parquet: WriteParquet, tmp_path: Path) -> Path:
    """The layout of the benchmark with three classes and a few pictures."""
    root = tmp_path / "data"
    for part in ("train-0", "train-1"):
        write_parquet(root / "cifar10" / f"{part}.parquet")
    write_parquet(root / "cifar10" / "test.parquet", openood_cifar10=["val", "test"] * 60)
    write_parquet(root / "cifar100" / "test.parquet", openood_cifar10=["test"] * 120)
    write_parquet(root / "tiny-imagenet" / "validation.parquet", openood_cifar10=["val"] * 120)
    (root / "textures").symlink_to(mixtures)
    return root


def test_a_reproduction_of_toy_length_goes_on_where_it_was_and_writes_its_page(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    words = ["--root", root, "--out", tmp_path / "runs", "--page", file, "--width", 8, "--epochs", 1, "--seeds", 0, 1]
    monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, words), "--losses", "elogitnorm", "elogitnorm-others"])
    reproduce.main()
    first = file.read_text()
    assert first.startswith("**Not at the paper's size: width 8, 1 epochs, 2 seeds")
    assert "textures 60 of 5,640" in first
    assert "Hyper-parameters: chosen on OOD validation pictures" in first
    assert "| score | near* | published | far* | published |" in first
    assert re.search(r"^\| textures \(far\) \| 60 of 5,640 \| [\d.]+ ± [\d.]+ \| [\d.]+ ± [\d.]+ \| `\w+` [\d.]+ ± [\d.]+ \| 95.78 \|$", first, re.M)
    assert "mean over C - 1 instead of C | far, MSP" in first
    assert "head distances detached | not run" in first
    assert page(Reproduction.model_validate_json(file.with_suffix(".json").read_bytes())) == first
    runs = sorted(folder.name for folder in (tmp_path / "runs").iterdir())
    assert runs == [f"{variant}-w8-e1-s{seed}" for variant in ("elogitnorm-others", "elogitnorm") for seed in (0, 1)]
    assert read(tmp_path / "runs" / runs[0] / "last.pt")["recipe"]["calibration_share"] == 0
    capsys.readouterr()
    (tmp_path / "runs" / runs[0] / "evaluation-last.json").unlink()
    reproduce.main()
    assert capsys.readouterr().out.count("is complete") == 4
    assert file.read_text() == first
    assert len(json.loads(file.with_suffix(".json").read_text())["runs"]) == 4
    # Sets that have come since are evaluated, without another training.
    (root / "svhn").symlink_to(root / "textures")
    monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, words[:-2]), "0", "--losses", "elogitnorm", "--gradient-scores", "--no-search"])
    reproduce.main()
    assert capsys.readouterr().out.count("is complete") == 1
    assert "svhn 60 of 26,032" in file.read_text()
    assert "Hyper-parameters: each score's defaults" in file.read_text()
    (again,) = Reproduction.model_validate_json(file.with_suffix(".json").read_bytes()).runs
    assert list(again.best.postprocessors) == [*REGISTRY, *EVALUATED_ONLY]


def test_a_search_without_its_pictures_is_refused_before_anything_is_trained(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "tiny-imagenet" / "validation.parquet").unlink()
    monkeypatch.setattr(sys, "argv", ["reproduce", "--root", str(root), "--out", str(tmp_path / "runs"), "--page", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit, match="no OOD validation pictures to search on: --no-search"):
        reproduce.main()
    assert not (tmp_path / "runs").exists()


def test_the_runs_of_several_commands_come_onto_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1, 2):
        (tmp_path / f"s{seed}.json").write_text(numbers(seed, command=f"reproduce --seeds {seed} --page here.md").model_dump_json())
    files = [str(tmp_path / f"s{seed}.json") for seed in (0, 1, 2)]
    monkeypatch.setattr(sys, "argv", ["page", *files, "--out", str(tmp_path / "sub" / "all.md")])
    pages.main()
    text = (tmp_path / "sub" / "all.md").read_text()
    assert text.startswith("**Not at the paper's size: width 16, 8 epochs, 3 seeds")
    assert "`reproduce --seeds 0` and `reproduce --seeds 1` and `reproduce --seeds 2`" in text
    found = Reproduction.model_validate_json((tmp_path / "sub" / "all.json").read_bytes())
    assert page(found) == text
    assert found.runs == numbers(0, 1, 2).runs
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "sub" / "all.json")])
    pages.main()
    assert (tmp_path / "sub" / "all.md").read_text() == text, "a page that is written again says the same"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (numbers(1, width=64), "different width cannot be averaged: 16 and 64"),
        (numbers(1, epochs=9), "different epochs cannot be averaged: 8 and 9"),
        (numbers(1, code_version="2"), "different code cannot be averaged: 1 and 2"),
        (numbers(1, hardware="H200"), "different hardware cannot be averaged: 2 CPU cores and H200"),
        (searched(numbers(1)), "different search cannot be averaged: False and True"),
        (numbers(0), "ce with seed 0 is there twice"),
    ],
)
def test_runs_that_do_not_belong_together_are_not_averaged(other: Reproduction, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        join([numbers(0), other])


def test_a_command_is_told_without_the_places_of_one_machine() -> None:
    assert (
        without_places("python -m benchmarks.reproduce --page /a/b.md --seeds 0 1 --root '/my data'") == "python -m benchmarks.reproduce --seeds 0 1"
    )


def test_the_paper_s_size_is_claimed_of_nothing_less() -> None:
    full = numbers(0, 1, 2, width=64, epochs=100)
    assert essentials(full).startswith("At the paper's size: width 64, 100 epochs, 3 seeds")
    assert "| `elogitnorm` | 92.50 ± 0.00 (95.11) |" in essentials(full)
    for less in (numbers(0, 1, width=64, epochs=100), numbers(0, 1, 2, width=64), numbers(0, 1, 2, epochs=100)):
        assert essentials(less).startswith("**Not at the paper's size")
