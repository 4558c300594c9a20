"""The histogram of p-values."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

NAME = "oodgate_ood_p_value"
WHAT = "p-values of the answered images"
LABELS = ("model", "version", "postprocessor")
BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def bounds(alpha: float) -> list[float]:
    return sorted({*BOUNDS, alpha})


def reference(alpha: float, calibration_images: int) -> dict[str, float]:
    """What share of ID images is at most each bound: `le`, as Prometheus writes it, -> share. p-values are multiples of 1 / (n + 1)."""
    whole = calibration_images + 1
    # The tiny addend keeps 0.05 * 100 from being 4.999...
    names = [str(floatToGoString(bound)) for bound in bounds(alpha)]  # type: ignore[no-untyped-call]
    return {name: min(1.0, float(np.floor(float(name) * whole + 1e-9)) / whole) for name in names}


class PValues(Collector):
    """One series whose buckets differ by child, which prometheus_client's own has not: the active alpha is always a boundary.

    Made of its histograms, one for each alpha, so that several processes can be summed.
    """

    def __init__(self) -> None:
        self.by_alpha: dict[float, Histogram] = {}
        self.children: dict[tuple[str, str, str], Histogram] = {}

    def add(self, labels: tuple[str, str, str], alpha: float) -> None:
        if labels not in self.children:
            if alpha not in self.by_alpha:
                self.by_alpha[alpha] = Histogram(NAME, WHAT, LABELS, buckets=bounds(alpha), registry=None)
            self.children[labels] = self.by_alpha[alpha].labels(*labels)

    def observe(self, labels: tuple[str, str, str], values: NDArray[np.float64]) -> None:
        child = self.children[labels]
        for value in values.tolist():
            child.observe(value)

    def collect(self) -> Iterable[Metric]:
        family = Metric(NAME, WHAT, "histogram")
        for histogram in list(self.by_alpha.values()):
            for part in histogram.collect():
                family.samples += part.samples
        yield family
