"""Raw score -> p-value -> reject: split-conformal thresholds and what they promise.

n scores of calibration images, none seen in training, decide. A new ID image exchangeable with them has a p-value that
is at most alpha with probability at most alpha (Bates et al., Testing for outliers with conformal p-values, Annals of
Statistics 2023, arXiv 2104.08279). Nothing is promised about how many OOD images are caught.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Guarantee = Literal["pac", "marginal"]
Scores = NDArray[np.float32]
# What tables of operating points list.
STANDARD_ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)


class TooFewCalibrationImages(Exception):
    """No threshold can keep the asked promise with so few calibration images."""


@dataclass(frozen=True)
class Gate:
    """One threshold and its promise: an image is rejected when its score is above `threshold`."""

    alpha: float
    guarantee: Guarantee
    threshold: float
    expected_false_reject_ratio: float


def open_gate(calibration: Scores, alpha: float, guarantee: Guarantee, delta: float) -> Gate:
    """The threshold for at most a share alpha of ID images rejected.

    calibration: (n,), sorted ascending. *marginal*: on average over calibration sets at most alpha. *pac*: with
    probability at least 1 - delta over calibration sets at most alpha. Raises TooFewCalibrationImages.
    """
    n = len(calibration)
    k = marginal_rank(n, alpha) if guarantee == "marginal" else pac_rank(n, alpha, delta)
    if k < 1:
        raise TooFewCalibrationImages(
            f"alpha {alpha:g} with guarantee {guarantee} needs at least {images_needed(alpha, guarantee, delta)} calibration images, "
            f"the bundle has {n}"
        )
    return Gate(alpha, guarantee, float(calibration[n - k]), k / (n + 1))


def p_values(calibration: Scores, scores: Scores) -> NDArray[np.float64]:
    """(1 + number of calibration scores >= s) / (n + 1) for each score: sorted (n,), (N,) -> (N,) in (0, 1]."""
    n = len(calibration)
    below = calibration.searchsorted(scores, side="left")
    return (n + 1 - below) / (n + 1)


def marginal_rank(n: int, alpha: float) -> int:
    """The rank k of the threshold from the top: the expected share rejected is k / (n + 1) <= alpha."""
    # The tiny addend keeps 0.05 * 100 from being 4.999...
    return math.floor(alpha * (n + 1) + 1e-9)


# Of a thousand classes with a threshold each, many have equally many images.
@lru_cache(4096)
def pac_rank(n: int, alpha: float, delta: float) -> int:
    """Largest k with P(Beta(k, n + 1 - k) > alpha) <= delta; 0 if there is none.

    The share of ID images above the k-th largest of n scores is Beta(k, n + 1 - k); its tail is a binomial's:
    P(Beta(k, n + 1 - k) > alpha) = P(Binomial(n, alpha) < k).
    """
    # The binomial's probabilities in logarithms, each from the one before it: n can be 100000, alpha ** n underflows.
    fewer = np.arange(n)
    log_ratio = np.log((n - fewer) / (fewer + 1)) + math.log(alpha) - math.log1p(-alpha)
    log_probability = n * math.log1p(-alpha) + np.concatenate([[0.0], np.cumsum(log_ratio[:-1])])
    # The tiny addend: where `images_needed` says that n suffices, a last digit must not make it none.
    return int(np.searchsorted(np.cumsum(np.exp(log_probability)), delta + 1e-12, side="right"))


def images_needed(alpha: float, guarantee: Guarantee, delta: float) -> int:
    """The fewest calibration images with which anything may be rejected at all under this promise."""
    if guarantee == "marginal":
        return math.ceil(1 / alpha - 1 - 1e-9)
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)


def least_alpha(n: int, delta: float) -> float:
    """The smallest alpha under which n calibration images let anything be rejected, with confidence 1 - delta: `images_needed` turned round."""
    return 1 - float(delta ** (1 / n))


def flag_by_fdr(values: NDArray[np.float64], fdr: float) -> NDArray[np.bool_]:
    """Which of these p-values (m,) to flag, so that on average at most a share fdr of those flagged are ID.

    Benjamini and Hochberg, 1995; conformal p-values that share one calibration set depend on each other in the way it allows
    (Bates et al., 2023). They must come from one calibration set, and all m must be judged at once.
    """
    ordered = np.sort(values)
    # As in `marginal_rank`, the tiny addend keeps an equality from being missed by a last digit.
    passing = np.flatnonzero(ordered <= fdr * np.arange(1, len(values) + 1) / len(values) + 1e-12)
    return values <= ordered[passing[-1]] if len(passing) else np.zeros(len(values), np.bool_)


def images_needed_for_fdr(m: int, fdr: float) -> int:
    """The fewest calibration images with which a single strange image among m could be flagged: the least p-value is 1 / (n + 1)."""
    return math.ceil(m / fdr - 1 - 1e-9)
