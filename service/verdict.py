"""Who decides, and what is decided."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.bundle.decision import Gate, Scores
from service.bundle.preprocess import Pixels
from service.bundle.reference import References, hold_against


@dataclass(frozen=True)
class Choice:
    """Who decides, and how: a post-processor, its column of the scores, and what they are held against."""

    postprocessor: str
    column: int
    references: References = field(repr=False)

    @property
    def gate(self) -> Gate:
        """The pooled one."""
        return self.references.pooled.gate

    @property
    def calibration(self) -> Scores:
        """All calibration scores (n,), ascending."""
        return self.references.pooled.calibration


@dataclass(frozen=True)
class Verdict:
    """N images decided: classes from most to least probable (N, C), p-values (N,), which are rejected (N,), and by which threshold (N,)."""

    ranked: NDArray[np.intp]
    p_values: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    thresholds: NDArray[np.float64]

    @property
    def class_ids(self) -> NDArray[np.intp]:
        """The predicted ones (N,)."""
        return self.ranked[:, 0]


@dataclass(frozen=True)
class Judged:
    """N images as the graph sees them, probabilities (N, C) and scores (N, P), and as the model's own gate decides."""

    probabilities: Scores
    scores: Scores
    own: Verdict

    @classmethod
    def of(cls, probabilities: Scores, scores: Scores, *own: NDArray[Any]) -> Self:
        """From one caller's rows of what `judging` gave."""
        return cls(probabilities, scores, Verdict(*own))


def judge(probabilities: Scores, scores: Scores, choice: Choice, ranked: NDArray[np.intp] | None = None) -> Verdict:
    """Probabilities (N, C) and raw scores of every post-processor (N, P) -> what the chosen one decides.

    ranked: as another verdict about the same images has it, whoever decided that; sorted anew if not given.
    """
    column = scores[:, choice.column]
    if ranked is None:
        # Stable, so that of equally probable classes the first is named.
        ranked = (-probabilities).argsort(axis=1, kind="stable")
    values, thresholds = hold_against(choice.references, ranked[:, 0], column)
    # Not `>`: a score that is no number must not be let through.
    return Verdict(ranked, values, ~(column <= thresholds), thresholds)


def judging(run: Callable[[Pixels], tuple[Scores, Scores]], choice: Choice) -> Callable[[Pixels], tuple[NDArray[Any], ...]]:
    """`run`, and what is decided about its batch (N, H, W, 3): for a single image that would take as long as for all of them."""

    def run_and_judge(images: Pixels) -> tuple[NDArray[Any], ...]:
        probabilities, scores = run(images)
        own = judge(probabilities, scores, choice)
        return probabilities, scores, own.ranked, own.p_values, own.rejected, own.thresholds

    return run_and_judge
