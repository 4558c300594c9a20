"""Training as it is really run: as a command, on a terminal, under torchrun, and stopped by a signal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training import checkpoint
from training.config import Recipe
from training.train import train

TRAIN = [sys.executable, "-m", "training", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WRITE_WEIGHTS = """
import os, signal, sys
import torch
from training.config import Recipe
from training.checkpoint import saved_state
from training.processes import Stopped, process_group
from training.train import Trainer
from pathlib import Path

data, run, stop_at = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
recipe = Recipe(data=data, width=8, epochs=2, batch_size=16, lr=0.05)


class StopsItself(Trainer):
    def train_step(self, images, labels):
        if self.rank == 1 and f"{self.epoch}.{self.step}" == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(images, labels)


with process_group():
    trainer = StopsItself(recipe, run, saved_state(recipe, run, resume=True))
    try:
        trainer.fit()
    except Stopped as stop:
        print(stop)
    torch.save(trainer.network.state_dict(), run / f"rank{trainer.rank}.weights")
"""


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def flags(data: Path, run: Path, **recipe: object) -> list[str]:
    given = {"data": data, "out": run, "width": 8, "batch-size": 16, "lr": 0.05} | recipe
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


class OnTerminal:
    """A command whose progress bars go to a terminal of their own."""

    def __init__(self, command: Sequence[str]) -> None:
        self.terminal, inner = pty.openpty()
        termios.tcsetwinsize(inner, (24, 200))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=inner, text=True)
        os.close(inner)
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """What the terminal shows up to a match of the pattern."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, f"no {pattern} within {seconds} s in {self.shown[-2000:]}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")
        return found.group()

    def stop(self) -> tuple[int, str]:
        """Exit status and standard output after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        output = self.process.communicate(timeout=60)[0]
        while select.select([self.terminal], [], [], 0)[0]:
            try:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        os.close(self.terminal)
        return self.process.returncode, output


@pytest.fixture(scope="module")
def stopped(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int, str]:
    """A run that got SIGTERM after its first epoch: its folder, what its terminal showed, its exit status and its output."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    command = OnTerminal([*TRAIN, *flags(blobs, run, **{"epochs": 6, "batch-size": 4})])
    command.wait_for(r"epoch 2/6: [^\r]*loss=")
    status, output = command.stop()
    return run, command.shown, status, output


def test_a_terminal_shows_loss_accuracy_speed_and_time_left(stopped: tuple[Path, str, int, str]) -> None:
    bar = r"epoch 2/6: +\d+%.* \d+/104 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ images/s, accuracy=[01]\.\d{3}, loss=\d\.\d{3}\]"
    assert re.search(bar, stopped[1])


def test_sigterm_in_the_middle_of_training_is_a_clean_end(stopped: tuple[Path, str, int, str]) -> None:
    _, shown, status, output = stopped
    assert status == 0
    assert "Traceback" not in shown
    assert re.search(r"^stopped in epoch \d+ after step \d+; --resume goes on from there$", output, re.MULTILINE)


def test_a_run_stopped_by_sigterm_resumes_to_the_same_weights_bit_for_bit(stopped: tuple[Path, str, int, str], blobs: Path, tmp_path: Path) -> None:
    run, recipe = stopped[0], Recipe(data=str(blobs), width=8, epochs=6, batch_size=4, lr=0.05)
    before = checkpoint.read(run / "last.pt")
    assert 1 <= before["epoch"] < 6
    train(recipe, run, resume=True)
    train(recipe, tmp_path / "uninterrupted")
    resumed, straight = (checkpoint.read(folder / "last.pt")["network"] for folder in (run, tmp_path / "uninterrupted"))
    assert not same(before["network"], straight)
    assert same(resumed, straight)


def test_sigterm_while_the_data_is_read_ends_cleanly_and_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
    for name in ("a", "b", "c"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / "set" / name / "0.png", compress_level=1)
        for i in range(1, 200):
            (tmp_path / "set" / name / f"{i}.png").hardlink_to(tmp_path / "set" / name / "0.png")
    command = OnTerminal([*TRAIN, *flags(tmp_path / "set", tmp_path / "run")])
    command.wait_for(r"read training pictures: +\d+%")
    began = time.monotonic()
    status, output = command.stop()
    assert time.monotonic() - began < 10
    assert (status, output) == (0, "stopped before the first step; nothing was written\n")
    assert "Traceback" not in command.shown
    assert not (tmp_path / "run").exists()


def test_what_a_person_can_put_right_is_one_sentence_on_stderr_and_status_1(tmp_path: Path) -> None:
    command = [*TRAIN, "--data", "no/such/set", "--out", str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 1
    assert found.stderr == "oodgate-training: 'no/such/set' is no file, no folder and no torchvision set\n"
    assert found.stdout == ""


@pytest.fixture(scope="module")
def on_two(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], str]:
    """on_two(run, "1.2"): trains on two processes; the second gets SIGTERM in epoch 1, step 2. Gives standard output."""
    script = tmp_path_factory.mktemp("script") / "write_weights.py"
    script.write_text(WRITE_WEIGHTS)

    def start(run: Path, stop_at: str = "never") -> str:
        command = [*TORCHRUN, str(script), str(blobs), str(run), stop_at]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert found.returncode == 0, found.stderr[-3000:]
        return found.stdout

    return start


@pytest.fixture(scope="module")
def parallel(on_two: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on two processes that nothing interrupted."""
    run = tmp_path_factory.mktemp("parallel") / "run"
    on_two(run)
    return run


def test_two_processes_end_with_the_same_weights(parallel: Path) -> None:
    first, second = (checkpoint.read(parallel / f"rank{rank}.weights") for rank in (0, 1))
    assert same(first, second)
    assert same(first, checkpoint.read(parallel / "last.pt")["network"])


def test_two_processes_see_different_pictures(parallel: Path, blobs: Path, tmp_path: Path) -> None:
    train(Recipe(data=str(blobs), width=8, epochs=2, batch_size=16, lr=0.05), tmp_path / "run")
    assert not same(checkpoint.read(parallel / "last.pt")["network"], checkpoint.read(tmp_path / "run" / "last.pt")["network"])


def test_sigterm_to_one_of_two_processes_stops_both_and_they_resume_to_the_same_weights(
    parallel: Path, on_two: Callable[..., str], tmp_path: Path
) -> None:
    output = on_two(tmp_path / "run", "1.1")
    assert output.count("stopped in epoch 2 after step 2") == 2
    state = checkpoint.read(tmp_path / "run" / "last.pt")
    assert (state["epoch"], state["step"], state["world"]) == (1, 2, 2)
    on_two(tmp_path / "run")
    assert same(checkpoint.read(tmp_path / "run" / "last.pt")["network"], checkpoint.read(parallel / "last.pt")["network"])


def test_the_command_line_trains_under_torchrun_and_speaks_once(blobs: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, "-m", "training", "train", *flags(blobs, tmp_path / "run", epochs=1)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("epoch 1/1") == 1
    assert found.stdout.count("best validation accuracy") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)  # torch compiles C++ for about 50 s of processor time
def test_a_compiled_network_trains_to_a_checkpoint_that_an_uncompiled_one_reads(blobs: Path, tmp_path: Path) -> None:
    recipe = Recipe(data=str(blobs), width=8, epochs=1, batch_size=16, lr=0.005, compile=True, precision="fp32")
    train(recipe, tmp_path / "compiled")
    train(Recipe(**recipe.as_dict() | {"compile": False}), tmp_path / "plain")
    compiled, plain = (checkpoint.read(tmp_path / run / "best.pt")["network"] for run in ("compiled", "plain"))
    assert compiled.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=0.05, atol=0.02)
