"""Simulated traffic, and the alarm that we do not use: calibration scores and ID scores uniform, OOD scores caught in a share of CAUGHT."""

import math

import numpy as np
from numpy.typing import NDArray

from service.bundle.decision import open_gate

ALPHA = 0.05
CAUGHT = 0.6
Random = np.random.Generator


def calibrated(random: Random, n: int) -> tuple[NDArray[np.float32], float]:
    """Calibration scores and the PAC threshold that they give."""
    calibration = np.sort(random.random(n, np.float32))
    return calibration, open_gate(calibration, ALPHA, "pac", 0.05).threshold


def stream(random: Random, threshold: float, images: int, ood_ratio: float) -> NDArray[np.bool_]:
    """Which images are rejected."""
    ood = random.random(images) < ood_ratio
    return np.where(ood, random.random(images) < CAUGHT, random.random(images, np.float32) > threshold)


def naive_evidence(values: NDArray[np.float64], every: int = 50) -> NDArray[np.float64]:
    """Logarithm of what the mixture of 100 power martingales over p-values has won, each so many images: the product of e p^(e - 1) for a bet e."""
    bets = np.linspace(0.01, 1, 100)
    log_p = np.cumsum(np.log(values))[every - 1 :: every]
    images = np.arange(every, len(values) + 1, every)
    log_wealth = images[:, None] * np.log(bets) + (bets - 1) * log_p[:, None]
    return np.asarray(np.logaddexp.reduce(log_wealth, axis=1) - math.log(len(bets)))
