"""The numbers of a reproduction, and how those of several commands become one."""

import shlex
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from service.bundle.evaluation import Evaluation


class Run(BaseModel):
    """One trained network: evaluated at its best validation accuracy, and after its last epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    seed: int
    seconds: float
    best: Evaluation
    last: Evaluation


class Reproduction(BaseModel):
    """What the page is written from. `command` has a line for each command that some of the runs are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    code_version: str
    hardware: str
    width: int
    epochs: int
    runs: tuple[Run, ...]

    def of(self, variant: str) -> list[Run]:
        return [run for run in self.runs if run.variant == variant]

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    @property
    def keys(self) -> list[str]:
        return list(self.runs[0].best.postprocessors)

    def terms(self) -> dict[str, object]:
        """What must be the same of runs that are averaged: the code, the size, the scores, the pictures, and whether it was searched."""
        sets = {name: about.images for name, about in self.runs[0].best.ood_sets.items()}
        searched = self.runs[0].best.search is not None
        size = {"width": self.width, "epochs": self.epochs}
        return {"code": self.code_version, "hardware": self.hardware, **size, "scores": self.keys, "sets": sets, "search": searched}


def join(parts: Sequence[Reproduction]) -> Reproduction:
    """The runs of several commands together. ValueError where they do not belong together, or one run is there twice."""
    first = parts[0].terms()
    for part in parts[1:]:
        for name, value in part.terms().items():
            if value != first[name]:
                raise ValueError(f"runs of different {name} cannot be averaged: {first[name]} and {value}")
    runs = [run for part in parts for run in part.runs]
    seen: set[tuple[str, int]] = set()
    for run in runs:
        if (run.variant, run.seed) in seen:
            raise ValueError(f"{run.variant} with seed {run.seed} is there twice")
        seen.add((run.variant, run.seed))
    commands = [without_places(line) for part in parts for line in part.command.splitlines()]
    return parts[0].model_copy(update={"command": "\n".join(commands), "runs": tuple(runs)})


def without_places(command: str) -> str:
    """A command without the folders and files of one machine."""
    words = shlex.split(command)
    return shlex.join(word for i, word in enumerate(words) if not {word, words[i - 1]} & {"--page", "--out", "--root"})


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1) of ratios, in %."""
    percent = [100 * value for value in values]
    mean = f"{statistics.mean(percent):.{digits}f}"
    return f"{mean} ± {statistics.stdev(percent):.{digits}f}" if len(percent) > 1 else mean


def auroc(evaluation: Evaluation, key: str, group: str) -> float:
    """Of one score; `both` is the mean of near and far."""
    found = evaluation.postprocessors[key]
    if group == "both":
        return (auroc(evaluation, key, "near") + auroc(evaluation, key, "far")) / 2
    entry = found.near if group == "near" else found.far
    assert entry is not None
    return entry.auroc
