"""Who decides, and what was decided."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.bundle.decision import Gate, Scores
from service.bundle.reference import References


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
    """N images decided: p-values (N,), which are rejected (N,), and by which threshold (N,)."""

    p_values: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
