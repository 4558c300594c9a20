"""What a run leaves on disk: `last.pt` (everything needed to go on) and `best.pt` (everything needed to use it).

Each file is written beside its place and moved into it, so it is either the old one or the new one, never half of one.
"""

import os
import subprocess
import textwrap
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from training.config import Recipe, TrainingError
from training.files import write
from training.networks import Classifier, build_network
from training.processes import world_size

SAVED = {"network", "optimizer", "generators", "epoch", "step", "sums", "best", "world", "recipe", "parts_digest", "classes", "mean", "std"}


@dataclass(frozen=True)
class Trained:
    """A network with what is known of it. parts_digest: of the pictures that it was trained with."""

    network: Classifier
    recipe: Recipe
    parts_digest: str
    classes: tuple[str, ...]
    epoch: int
    validation_accuracy: float
    code_version: str


def save(path: Path, state: dict[str, Any]) -> None:
    """TrainingError when the disk is full or the place cannot be written; the old file stays."""
    write(path, lambda file: torch.save(state, file))


def read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{path} does not exist") from None
    except OSError as exc:
        raise TrainingError(f"{path} cannot be read: {exc}") from None
    except Exception:  # noqa: BLE001 -- each kind of damage raises its own, and torch's advice is to trust the file
        raise TrainingError(f"{path} is not a readable checkpoint: it is damaged or holds other things than tensors") from None
    return state


def load_trained(run: Path) -> Trained:
    """The best network of a run, on the CPU, in evaluation mode."""
    path = run if run.is_file() else run / "best.pt"
    state = read(path)
    try:
        recipe = Recipe(**state["recipe"])
        network = build_network(recipe.network, len(state["classes"]), state["mean"], state["std"], recipe.width)
        network.load_state_dict(state["network"])
        digest = state["parts_digest"]
    except KeyError as exc:
        raise TrainingError(f"{path} is not a checkpoint of this version: it has no {exc.args[0]}; train it anew") from None
    except (TypeError, RuntimeError) as exc:
        raise TrainingError(f"{path} is not a checkpoint of this version: {textwrap.shorten(str(exc), 200)}") from None
    return Trained(
        network.eval(),
        recipe,
        digest,
        tuple(state["classes"]),
        state["epoch"],
        state["validation_accuracy"],
        state["code_version"],
    )


def saved_state(recipe: Recipe, run: Path, resume: bool) -> dict[str, Any] | None:
    """What last.pt holds, or None where the run has not begun. TrainingError if it is not of this recipe."""
    last = run / "last.pt"
    if not last.exists():
        return None
    if not resume:
        raise TrainingError(f"{last} exists; give --resume to go on, or another --out")
    state = read(last)
    try:
        missing = SAVED - set(state)
        saved = None if missing else Recipe(**state["recipe"])
    except TypeError as exc:
        raise TrainingError(f"{last} is not a checkpoint of this version: {exc}") from None
    if saved is None:
        raise TrainingError(f"{last} is not a checkpoint of this version: it has no {', '.join(sorted(missing))}")
    changed = [key for key, value in recipe.as_dict().items() if saved.as_dict()[key] != value]
    if changed:
        raise TrainingError(f"{last} was trained with another {', '.join(changed)}; resume with the same recipe")
    if state["world"] != world_size():
        raise TrainingError(f"{last} was trained on {state['world']} process(es), not {world_size()}")
    return state


def check_place(run: Path) -> None:
    """Refuses at the start what would otherwise fail after the first epoch."""
    place = next(folder for folder in (run, *run.parents) if folder.exists())
    if not place.is_dir():
        raise TrainingError(f"{run} cannot be written: {place} is not a directory")
    if not os.access(place, os.W_OK):
        raise TrainingError(f"{run} cannot be written: {place} does not allow it")


def code_version() -> str:
    """The version of this code: the package's, with the commit where there is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return version("oodgate")
    return f"{version('oodgate')}+{commit}"
