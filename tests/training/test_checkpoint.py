import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from training import checkpoint
from training.checkpoint import load_trained
from training.config import Recipe, TrainingError
from training.files import write, write_text
from training.networks import build_network


def best(**changes: Any) -> dict[str, Any]:
    """What training writes to best.pt."""
    recipe = Recipe(data="set", width=8)
    network = build_network("resnet18_32x32", 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 8)
    state = {"network": network.state_dict(), "epoch": 4, "code_version": "1", "validation_accuracy": 0.75}
    known = {"recipe": recipe.as_dict(), "parts_digest": "digest", "classes": ["a", "b", "c"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    return state | known | changes


@contextmanager
def small_files() -> Iterator[None]:
    """Every write past 4 kB fails, as on a full disk. No fixture: pytest's own report may go to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run" / "last.pt", {"weights": torch.arange(5), "epoch": 3})
    state = checkpoint.read(tmp_path / "run" / "last.pt")
    assert state["epoch"] == 3
    assert torch.equal(state["weights"], torch.arange(5))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["last.pt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"epoch": 1})
    with small_files(), pytest.raises(TrainingError, match=r"last\.pt cannot be written: [^\n]+$"):
        checkpoint.save(tmp_path / "last.pt", {"epoch": 2, "weights": torch.zeros(100_000)})
    assert checkpoint.read(tmp_path / "last.pt") == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(TrainingError, match=r"run/last\.pt cannot be written"):
        checkpoint.save(tmp_path / "run" / "last.pt", {})


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"best\.pt does not exist"):
        load_trained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"], ids=["empty", "text", "zip"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"best\.pt is not a readable checkpoint: [^\n]+$"):
        load_trained(tmp_path)


def test_a_checkpoint_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"network": Path("x")}, tmp_path / "best.pt")
    with pytest.raises(TrainingError, match=r"best\.pt is not a readable checkpoint: [^\n]+$"):
        load_trained(tmp_path)


@pytest.mark.parametrize(
    "state",
    [[1, 2], {}, best(recipe={"data": "set", "optimiser": "adam"}), best(network={}), best(classes=["a", "b"]), best(mean=[0.5])],
    ids=["list", "empty", "recipe", "network", "classes", "mean"],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(TrainingError, match=r"best\.pt is not a checkpoint of this version: [^\n]+$"):
        load_trained(tmp_path)


def test_a_trained_network_comes_back_ready_to_be_used(tmp_path: Path) -> None:
    state = best()
    checkpoint.save(tmp_path / "best.pt", state)
    trained = load_trained(tmp_path)
    assert not trained.network.training
    assert trained.classes == ("a", "b", "c")
    assert trained.recipe == Recipe(data="set", width=8)
    assert (trained.epoch, trained.validation_accuracy, trained.code_version) == (4, 0.75, "1")
    assert all(torch.equal(value, state["network"][key]) for key, value in trained.network.state_dict().items())


def test_a_checkpoint_of_a_recipe_with_fewer_fields_is_still_read(tmp_path: Path) -> None:
    state = best()
    del state["recipe"]["skip_unreadable"]
    checkpoint.save(tmp_path / "best.pt", state)
    assert load_trained(tmp_path).recipe.skip_unreadable is False


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    write_text(file, "of yesterday")

    def half(to: BinaryIO) -> None:
        to.write(b"of to")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainingError, match=r"table.json cannot be written: .*No space left"):
        write(file, half)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("table.json", "of yesterday")]


def test_a_checkpoint_from_before_runs_knew_their_pictures_says_what_to_do(tmp_path: Path) -> None:
    state = best()
    del state["parts_digest"]
    checkpoint.save(tmp_path / "best.pt", state)
    with pytest.raises(TrainingError, match=r"best\.pt is not a checkpoint of this version: it has no parts_digest; train it anew"):
        load_trained(tmp_path)
