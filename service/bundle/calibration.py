"""What thresholds rest on: the scores of calibration images, and what the manifest says of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from service.bundle.evaluation import Strict


def is_none(value: object) -> bool:
    return value is None


class ClassCalibration(Strict):
    """Calibration images that were predicted to be of one class, and what decides over such pictures: pooled is one threshold for all of these."""

    images: Annotated[int, Field(ge=0)]
    threshold: Literal["own", "pooled"]


class CalibrationInfo(Strict):
    """Which pictures the thresholds rest on, and the promise when nobody asks for another.

    Left out where they do not apply, so that older readers, which refuse unknown keys, still read what they can serve:
    `recalibrated_from`, the version whose graph this is, and `per_class`, which lists every class.
    """

    n: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    data: str
    timestamp: Annotated[float, Field(ge=0, description="when calibrated, seconds since 1970-01-01 UTC")]
    recalibrated_from: Annotated[int | None, Field(ge=1, exclude_if=is_none)] = None
    per_class: Annotated[dict[str, ClassCalibration] | None, Field(exclude_if=is_none)] = None


@dataclass(frozen=True)
class Calibration:
    """Per post-processor (row) the n raw scores, ascending, and the class predicted for each. Both (P, n)."""

    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]

    @cached_property
    def by_class(self) -> list[list[NDArray[np.float32]]]:
        """Per post-processor and predicted class the scores, ascending."""
        rows = zip(self.scores, self.predicted, strict=True)
        return [np.split(scores[predicted.argsort(kind="stable")], np.bincount(predicted).cumsum()[:-1]) for scores, predicted in rows]
