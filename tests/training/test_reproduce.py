import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import reproduce
from benchmarks.page import Reproduction, page
from training.checkpoint import read

WriteParquet = Callable[..., Path]


@pytest.fixture
def root(mixtures: Path, write_parquet: WriteParquet, tmp_path: Path) -> Path:
    """The layout of the benchmark with three classes and a few pictures."""
    root = tmp_path / "data"
    for part in ("train-0", "train-1"):
        write_parquet(root / "cifar10" / f"{part}.parquet")
    write_parquet(root / "cifar10" / "test.parquet", openood_cifar10=["val", "test"] * 60)
    write_parquet(root / "cifar100" / "test.parquet", openood_cifar10=["test"] * 120)
    (root / "textures").symlink_to(mixtures)
    return root


def test_a_reproduction_of_toy_length_goes_on_where_it_was_and_writes_its_page(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    words = ["--root", root, "--out", tmp_path / "runs", "--page", file, "--width", 4, "--epochs", 1, "--seeds", 0, 1]
    monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, words), "--losses", "elogitnorm", "elogitnorm-others"])
    reproduce.main()
    first = file.read_text()
    assert first.startswith("**Not at the paper's size: width 4, 1 epochs, 2 seeds")
    assert "textures 60 of 5,640" in first
    assert "mean over C - 1 instead of C | far, MSP" in first
    assert "head distances detached | not run" in first
    assert page(Reproduction.model_validate_json(file.with_suffix(".json").read_bytes())) == first
    runs = sorted(folder.name for folder in (tmp_path / "runs").iterdir())
    assert runs == [f"{variant}-w4-e1-s{seed}" for variant in ("elogitnorm-others", "elogitnorm") for seed in (0, 1)]
    assert read(tmp_path / "runs" / runs[0] / "last.pt")["recipe"]["calibration_share"] == 0
    capsys.readouterr()
    (tmp_path / "runs" / runs[0] / "evaluation-last.json").unlink()
    reproduce.main()
    assert capsys.readouterr().out.count("is complete") == 4
    assert file.read_text() == first
    assert len(json.loads(file.with_suffix(".json").read_text())["runs"]) == 4
