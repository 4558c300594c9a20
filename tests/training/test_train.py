import math
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torchvision import models

from service.bundle.preprocess import decode
from training import checkpoint
from training.__main__ import main
from training.checkpoint import code_version, load_trained
from training.config import Recipe, TrainingError
from training.data import load
from training.losses import LOSSES
from training.parts import open_parts
from training.processes import Stopped
from training.train import Trainer, train

WriteFolder = Callable[..., Path]
STEPS = 105 // 16  # 120 pictures, 12 of them for calibration and 3 for validation


class StopsItself(Trainer):
    """Gets SIGTERM while it works on one step."""

    at = (0, 0)

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if (self.epoch, self.step) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(images, labels)


class Poisoned(Trainer):
    """Its weights become NaN, before or after one step."""

    before: tuple[int, int] | None = None
    after: tuple[int, int] | None = None

    def poison(self) -> None:
        with torch.no_grad():
            self.network.head.weight.fill_(math.nan)

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        here = (self.epoch, self.step)
        if here == self.before:
            self.poison()
        result = super().train_step(images, labels)
        if here == self.after:
            self.poison()
        return result


def same(one: Any, other: Any) -> bool:
    """Whether two checkpoints are equal to the last bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def last(run: Path) -> dict[str, Any]:
    return checkpoint.read(run / "last.pt")


def arguments(recipe: Recipe, run: Path, *more: str) -> list[str]:
    given = [("data", recipe.data), ("width", recipe.width), ("epochs", recipe.epochs), ("batch-size", recipe.batch_size), ("lr", recipe.lr)]
    return ["train", *(str(word) for name, value in given for word in (f"--{name}", value)), "--out", str(run), *more]


def refused(argv: list[str]) -> str:
    """The one sentence with which the command line ends. A string as exit status is printed and means 1."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert isinstance(ended.value.code, str)
    assert "\n" not in ended.value.code
    return ended.value.code


@pytest.fixture(scope="module")
def finished(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that nothing interrupted. Read only."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(Recipe(data=str(blobs), width=8, epochs=2, batch_size=16, lr=0.05), run)
    return run


# --- the recipe ---


@pytest.mark.parametrize(
    ("loss", "precision", "lr"),
    # LogitNorm's temperature makes its gradients 25 times as large.
    [("elogitnorm", "bf16", 0.02), ("elogitnorm", "fp32", 0.02), ("logitnorm", "bf16", 0.005), ("ce", "fp32", 0.02)],
)
def test_training_learns(recipe: Recipe, tmp_path: Path, loss: Any, precision: Any, lr: float) -> None:
    recipe = replace(recipe, loss=loss, precision=precision, epochs=10, lr=lr)
    train(recipe, tmp_path / "run")
    trained = load_trained(tmp_path / "run")
    unseen = load(open_parts(recipe).calibration, recipe.input, "calibration pictures")
    with torch.inference_mode():
        _, logits = trained.network(unseen.take(torch.arange(len(unseen))))
    assert (logits.argmax(dim=1) == unseen.labels).sum() >= 11


def test_the_learning_rate_falls_from_lr_to_final_lr_along_a_cosine(recipe: Recipe, tmp_path: Path) -> None:
    rates: list[float] = []

    class Recorder(Trainer):
        def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            result = super().train_step(images, labels)
            rates.append(self.optimizer.param_groups[0]["lr"].item())
            return result

    trainer = Recorder(recipe, tmp_path / "run")
    trainer.fit()
    expected = [1e-6 + (0.05 - 1e-6) * (1 + math.cos(math.pi * step / (2 * STEPS))) / 2 for step in range(2 * STEPS)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 0.05
    assert trainer.learning_rate() == pytest.approx(1e-6)


def test_a_run_of_another_device_goes_on_with_this_one_s_update(finished: Path) -> None:
    state = last(finished)
    (group,) = state["optimizer"]["param_groups"]
    group["lr"], group["fused"] = 0.01, True
    trainer = Trainer(Recipe(**state["recipe"]), finished, state)
    (group,) = trainer.optimizer.param_groups
    assert group["lr"] is trainer.rate
    assert group["fused"] is None or trainer.device.type == "cuda"


def test_the_learning_rate_rises_in_a_straight_line_while_it_warms_up(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, epochs=3, warmup_epochs=1.5), tmp_path / "run")
    rates = []
    for done in range(3 * STEPS):
        trainer.epoch, trainer.step = divmod(done, STEPS)
        rates.append(trainer.learning_rate())
    rising = [rate for done, rate in enumerate(rates) if done < 1.5 * STEPS]
    assert rising == pytest.approx([0.05 * (step + 1) / (1.5 * STEPS) for step in range(len(rising))])
    falling = rates[len(rising) :]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(0.05, rel=0.02)
    assert falling[-1] < 0.005


def test_airbench_trains_and_goes_on_to_the_same_result(recipe: Recipe, tmp_path: Path) -> None:
    whole = replace(recipe, network="airbench_32x32", width=24)
    train(whole, tmp_path / "whole")
    stopping = Trainer(whole, tmp_path / "halves")
    stopping.stopping = True
    with pytest.raises(Stopped):
        stopping.fit()
    train(whole, tmp_path / "halves", resume=True)
    expected, got = (load_trained(tmp_path / name).network.state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    fresh = stopping.build_network(pretrained=False).state_dict()
    assert not torch.equal(expected["backbone.stem.weight"], fresh["backbone.stem.weight"])


def test_one_step_is_nesterovs_with_weight_decay_on_every_parameter(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, precision="fp32"), tmp_path / "run")
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.network.train()
    trainer.generator.manual_seed(0)
    trainer.train_step(*next(trainer.train_set.batches([torch.arange(16)])))
    for old, parameter in zip(before, trainer.network.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), old - 0.05 * (1 + 0.9) * (parameter.grad + 5e-4 * old), rtol=1e-5, atol=1e-7)


def test_pixels_are_normalised_with_the_statistics_of_the_training_part(recipe: Recipe, finished: Path) -> None:
    parts = open_parts(recipe)
    pixels = np.stack([decode(Path(parts.train.name(i)).read_bytes(), recipe.input) for i in range(len(parts.train))]) / 255
    assert last(finished)["mean"] == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-4)
    assert last(finished)["std"] == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-4)


def test_every_picture_is_seen_once_before_any_is_seen_twice(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Recorder(Trainer):
        def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(images.clone())
            return super().train_step(images, labels)

    Recorder(replace(recipe, epochs=1), tmp_path / "run").fit()
    assert len(seen) == STEPS
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) == STEPS * 16


def test_the_checkpoint_of_the_best_epoch_is_kept_and_the_later_of_equals_wins(recipe: Recipe, tmp_path: Path) -> None:
    accuracies = iter([0.5, 0.75, 0.75, 0.25])

    class Scripted(Trainer):
        def validate(self) -> float:
            return next(accuracies)

    assert Scripted(replace(recipe, epochs=4), tmp_path / "run").fit() == 0.75
    trained = load_trained(tmp_path / "run")
    assert (trained.epoch, trained.validation_accuracy) == (3, 0.75)


def test_a_set_that_does_not_fit_into_memory_trains_to_the_same_weights(
    recipe: Recipe, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**12))
    trainer = Trainer(recipe, tmp_path / "run")
    assert trainer.train_set.tensor is None
    trainer.fit()
    assert same(last(tmp_path / "run"), last(finished))


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "again")
    train(replace(recipe, seed=1), tmp_path / "other")
    assert same(last(tmp_path / "again"), last(finished))
    assert not same(last(tmp_path / "other")["network"], last(finished)["network"])


def test_a_batch_larger_than_the_training_part_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"batch_size 106 .* there are 105"):
        train(replace(recipe, batch_size=106), tmp_path / "run")


# --- pretrained weights ---


def test_pretrained_weights_that_cannot_be_had_are_one_sentence(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    root = write_folder(tmp_path / "set", blue=5, green=5, red=5)
    argv = ["train", "--data", str(root), "--network", "resnet18_224x224", "--pretrained", "--batch-size", "2", "--out", str(tmp_path / "run")]
    assert re.search("ImageNet weights for resnet18_224x224 cannot be had: .*; --no-pretrained starts from random ones", refused(argv))
    assert not (tmp_path / "run").exists()


def test_a_run_from_pretrained_weights_resumes_without_them(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch" / "hub" / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    torch.save(models.resnet18(weights=None).state_dict(), file)
    root = write_folder(tmp_path / "set", blue=5, green=5, red=5)
    recipe = Recipe(data=str(root), network="resnet18_224x224", pretrained=True, epochs=1, batch_size=2, lr=1e-3)
    trainer = StopsItself(recipe, tmp_path / "run")
    trainer.at = (0, 1)
    assert trainer.mean == [0.485, 0.456, 0.406]
    with pytest.raises(Stopped):
        trainer.fit()
    file.unlink()
    train(recipe, tmp_path / "run", resume=True)
    assert last(tmp_path / "run")["epoch"] == 1


# --- stopping and going on ---


@pytest.mark.parametrize("at", [(0, 0), (0, STEPS - 1), (1, 2)], ids=["first step", "last step of an epoch", "second epoch"])
def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(recipe: Recipe, finished: Path, tmp_path: Path, at: tuple[int, int]) -> None:
    trainer = StopsItself(recipe, tmp_path / "run")
    trainer.at = at
    with pytest.raises(Stopped, match=f"stopped in epoch {at[0] + 1} after step {at[1] + 1}"):
        trainer.fit()
    assert (last(tmp_path / "run")["epoch"], last(tmp_path / "run")["step"]) == (at[0], at[1] + 1)
    train(recipe, tmp_path / "run", resume=True)
    assert same(last(tmp_path / "run"), last(finished))
    assert same(checkpoint.read(tmp_path / "run" / "best.pt"), checkpoint.read(finished / "best.pt"))


def test_a_run_that_reads_its_loss_seldom_stops_at_once_and_ends_with_the_same_weights(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    trainer = StopsItself(recipe, tmp_path / "run")
    trainer.at, trainer.tally.every = (1, 2), 4
    with pytest.raises(Stopped, match="stopped in epoch 2 after step 3"):
        trainer.fit()
    going_on = Trainer(recipe, tmp_path / "run", last(tmp_path / "run"))
    going_on.tally.every = 4
    going_on.fit()
    assert same(last(tmp_path / "run"), last(finished))


def test_the_scalars_of_a_stopped_run_are_on_disk(recipe: Recipe, tmp_path: Path) -> None:
    trainer = StopsItself(recipe, tmp_path / "run")
    trainer.at = (1, 0)
    with pytest.raises(Stopped):
        trainer.fit()
    assert [event.step for event in scalars(tmp_path / "run").Scalars("loss")] == [1]


def test_training_gives_the_signals_back(recipe: Recipe, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(replace(recipe, epochs=1), tmp_path / "run")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_complete_run_says_so_without_reading_the_data(recipe: Recipe, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    state = last(finished)
    checkpoint.save(tmp_path / "run" / "last.pt", state | {"recipe": state["recipe"] | {"data": "gone"}})
    before = sorted((file.name, file.stat().st_mtime_ns) for file in (tmp_path / "run").iterdir())
    main(arguments(replace(recipe, data="gone"), tmp_path / "run", "--resume"))
    assert "is complete" in capsys.readouterr().out
    assert sorted((file.name, file.stat().st_mtime_ns) for file in (tmp_path / "run").iterdir()) == before


def test_resuming_what_never_began_begins(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "run", resume=True)
    assert same(last(tmp_path / "run"), last(finished))


def test_a_run_is_not_overwritten_unasked(recipe: Recipe, finished: Path) -> None:
    before = last(finished)
    assert "last.pt exists; give --resume" in refused(arguments(recipe, finished))
    assert same(last(finished), before)


def test_resuming_with_another_recipe_names_what_differs(recipe: Recipe, finished: Path) -> None:
    sentence = refused(arguments(replace(recipe, epochs=3, lr=0.01), finished, "--resume"))
    assert "trained with another epochs, lr" in sentence


def test_resuming_on_another_number_of_processes_is_refused(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run" / "last.pt", last(finished) | {"world": 4, "epoch": 1})
    with pytest.raises(TrainingError, match=r"trained on 4 process\(es\), not 1"):
        train(recipe, tmp_path / "run", resume=True)


@pytest.mark.parametrize("state", [[1], {"epoch": 3}, {"recipe": {"optimiser": "adam"}}, {"recipe": None}], ids=str)
def test_resuming_a_foreign_checkpoint_is_refused(recipe: Recipe, tmp_path: Path, state: Any) -> None:
    checkpoint.save(tmp_path / "run" / "last.pt", state)
    assert "last.pt is not a checkpoint of this version" in refused(arguments(recipe, tmp_path / "run", "--resume"))


# --- what goes wrong ---


def test_a_loss_that_is_not_finite_ends_with_one_sentence_and_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    sentence = refused(arguments(replace(recipe, lr=1e30), tmp_path / "run", "--loss", "ce"))
    assert re.search(r"the loss is (nan|inf) in epoch 1, step \d+; lower --lr \(now 1e\+30\)", sentence)
    assert "last.pt" not in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", [{"before": (1, 2)}, {"after": (1, STEPS - 1)}], ids=["within an epoch", "after its last step"])
def test_the_last_good_checkpoint_survives_bad_weights(recipe: Recipe, tmp_path: Path, when: dict[str, tuple[int, int]]) -> None:
    trainer = Poisoned(recipe, tmp_path / "run")
    trainer.before, trainer.after = when.get("before"), when.get("after")
    with pytest.raises(TrainingError, match=r"in epoch 2.*last\.pt holds the last good"):
        trainer.fit()
    for name in ("last.pt", "best.pt"):
        state = checkpoint.read(tmp_path / "run" / name)
        assert state["epoch"] == 1
        assert all(torch.isfinite(tensor).all() for tensor in state["network"].values())


def test_a_run_that_reads_its_loss_seldom_still_notices_that_it_diverged(recipe: Recipe, tmp_path: Path) -> None:
    trainer = Poisoned(recipe, tmp_path / "run")
    trainer.before, trainer.tally.every = (1, 1), 4
    with pytest.raises(TrainingError, match="the loss is nan in epoch 2, step 4"):
        trainer.fit()
    assert last(tmp_path / "run")["epoch"] == 1


def test_another_loss_can_be_tried_without_a_name_for_it(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    asked = []

    def tried(logits: Tensor, head: torch.nn.Linear, labels: Tensor) -> Tensor:
        asked.append(len(labels))
        return LOSSES[recipe.loss](logits, head, labels)

    train(recipe, tmp_path / "run", loss=tried)
    assert asked == [16] * 2 * STEPS
    assert same(last(tmp_path / "run"), last(finished))


def test_stopping_does_not_save_bad_weights(recipe: Recipe, tmp_path: Path) -> None:
    class Both(StopsItself, Poisoned):
        pass

    trainer = Both(recipe, tmp_path / "run")
    trainer.at, trainer.after = (1, 2), (1, 2)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.fit()
    assert last(tmp_path / "run")["epoch"] == 1
    assert last(tmp_path / "run")["step"] == 0


def test_a_full_disk_is_one_sentence(recipe: Recipe, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        sentence = refused(arguments(recipe, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written" in sentence
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_folder_that_cannot_be_made_is_refused_before_the_data_is_read(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    missing = replace(recipe, data="no/such/set")
    for run in (tmp_path / "file", tmp_path / "file" / "deeper" / "run"):
        assert f"{run} cannot be written: {tmp_path / 'file'} is not a directory" in refused(arguments(missing, run))


def test_a_run_folder_that_turns_out_not_to_be_one_is_one_sentence(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "nowhere").write_text("in the way")
    assert f"{tmp_path / 'run'} cannot be written" in refused(arguments(recipe, tmp_path / "run"))


def test_data_that_cannot_be_learnt_leaves_no_run_folder(write_folder: WriteFolder, tmp_path: Path) -> None:
    broken = write_folder(tmp_path / "broken", blue=20, green=20, red=20)
    (broken / "red" / "000.png").write_bytes(b"no picture")
    one = write_folder(tmp_path / "one", blue=20)
    for data, sentence in (("no/such/set", "no torchvision set"), (str(one), "at least 2"), (str(broken), "000.png cannot be read")):
        assert sentence in refused(["train", "--data", data, "--batch-size", "16", "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()


def test_elogitnorm_is_refused_for_two_classes_before_a_picture_is_read(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=20, red=20)
    for file in root.rglob("*.png"):
        file.write_bytes(b"no picture")
    sentence = refused(arguments(replace(recipe, data=str(root)), tmp_path / "run"))
    assert "elogitnorm cannot learn 2 classes" in sentence
    assert "--loss ce" in sentence
    assert not (tmp_path / "run").exists()


def test_unreadable_pictures_can_be_left_out(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "set", blue=20, red=20)
    for i in (3, 4, 5, 6):
        (root / "red" / f"{i:03}.png").write_bytes(b"no picture")
    main(arguments(replace(recipe, data=str(root), batch_size=8, epochs=1), tmp_path / "run", "--skip-unreadable", "--loss", "ce"))
    assert "pictures could not be read and are left out" in capsys.readouterr().out


def test_a_class_that_has_only_unreadable_pictures_is_named(recipe: Recipe, write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", blue=20, red=20)
    write_folder(tmp_path / "val", blue=2, red=2)
    for file in (root / "red").iterdir():
        file.write_bytes(b"no picture")
    words = ["--skip-unreadable", "--validation", str(tmp_path / "val"), "--loss", "ce"]
    argv = arguments(replace(recipe, data=str(root), batch_size=8), tmp_path / "run", *words)
    assert "class 'red' has no picture" in refused(argv)
    assert not (tmp_path / "run").exists()


# --- what is shown ---


def scalars(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run))
    found.Reload()
    return found


def test_tensorboard_has_every_scalar_of_every_epoch(finished: Path) -> None:
    found = scalars(finished)
    names = {"loss", "accuracy/train", "accuracy/validation", "lr", "images_per_second"}
    assert set(found.Tags()["scalars"]) == names
    assert all([event.step for event in found.Scalars(name)] == [1, 2] for name in names)
    assert found.Scalars("loss")[1].value < found.Scalars("loss")[0].value
    assert found.Scalars("lr")[0].value == pytest.approx(0.05)


def test_each_epoch_prints_one_line(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(recipe, tmp_path / "run"))
    lines = capsys.readouterr().out.splitlines()
    line = r"epoch {}/2  loss \d\.\d{{4}}  accuracy [01]\.\d{{4}}  validation [01]\.\d{{4}}  \d+ images/s  \d+ min left"
    assert re.fullmatch(line.format(1), lines[0])
    assert re.fullmatch(line.format(2), lines[1])
    assert lines[2] == f"best validation accuracy {last(tmp_path / 'run')['best']:.4f}; the network is in {tmp_path / 'run'}"
    assert len(lines) == 3


def test_the_code_version_is_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", code_version())


def test_a_run_can_go_on_from_another_runs_network(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipe, initial=str(finished)), tmp_path / "run")
    weights = load_trained(finished).network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.network.state_dict().items())
    train(replace(recipe, initial=str(finished), epochs=1), tmp_path / "run")
    assert load_trained(tmp_path / "run").recipe.initial == str(finished)


def test_a_network_that_does_not_fit_is_not_gone_on_from(recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="was trained with width 8, it can only go on with the same, not 16"):
        train(replace(recipe, initial=str(finished), width=16), tmp_path / "run")
