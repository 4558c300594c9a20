"""What a model's stream of verdicts says about its traffic: an alarm with a known false-alarm rate, and how much of it is OOD.

Numbers in, numbers out: knows nothing of models, files, metrics or time.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Clean traffic ever raises the alarm with probability at most 1 / 100 (Ville's inequality).
LOG_ALARM = math.log(100)
BETS = 8
# Images between two new bets.
BLOCK = 32
# The p-value above which hardly any OOD image is expected, and still most ID images are.
SPLIT = 0.2
# Standard errors between the estimated share of OOD and what it is at least: exceeded in under 1 % of windows, by the exact
# distribution, however few calibration images there are, and in under 0.2 % from 1,000 on.
SURE = 3.09


class Drift:
    """An e-process against "each image is rejected with probability at most alpha, whatever came before".

    Bets on reject rates above alpha by likelihood ratio: under the hypothesis none gains on average, so their wealth, which begins at 1, ever
    reaches 100 with probability at most 1 %, however often one looks. Half the wealth is bet at once, the rest in ever smaller stakes for ever:
    bets that are placed late have not lost what the early ones lose on clean traffic, so a change is found late as well. Not on the p-values
    themselves: the calibration set's own error would be found in them, given time. Betting: Waudby-Smith and Ramdas, JRSS B 2024,
    arXiv 2010.09686; stakes over starting times: Shin, Ramdas and Rinaldo, 2022, arXiv 2203.03532.
    """

    def __init__(self, alpha: float) -> None:
        rates = alpha + np.geomspace(0.2 * min(alpha, 1 - alpha), 0.9 * (1 - alpha), BETS)
        self.log_gain = np.log(rates / alpha)
        self.log_loss = np.log((1 - rates) / (1 - alpha))
        self.settled = np.full(BETS, -np.inf)
        # Accepted images that are not in `settled` yet: most traffic is accepted, and then only counts.
        self.unsettled = 0
        self.images = 0
        self.rejected = 0
        self.alarmed_at: int | None = None

    def observe(self, rejected: Iterable[bool]) -> None:
        """Verdicts (N,) of further images, in their order."""
        for strange in rejected:
            if self.images % BLOCK == 0:
                stake = self.reserve(self.images - 1) - self.reserve(self.images)
                self.settled = np.logaddexp(self.log_wealth(), math.log(stake / BETS))
            self.images += 1
            if not strange:
                self.unsettled += 1
                continue
            self.settled = self.log_wealth() + self.log_gain
            self.rejected += 1
            # Wealth grows with rejects alone.
            if self.alarmed_at is None and self.log_e_value >= LOG_ALARM:
                self.alarmed_at = self.images

    def log_wealth(self) -> NDArray[np.float64]:
        """Of each bet (BETS,), of what was staked so far."""
        self.settled = self.settled + self.unsettled * self.log_loss
        self.unsettled = 0
        return self.settled

    @staticmethod
    def reserve(images: int) -> float:
        """What is not yet bet after so many images. Falls so slowly that a late stake is still worth something."""
        return 0.5 / (1 + math.log1p(images // BLOCK)) if images >= 0 else 1.0

    @property
    def log_e_value(self) -> float:
        return float(np.logaddexp(np.logaddexp.reduce(self.log_wealth()), math.log(self.reserve(self.images - 1))))


@dataclass(frozen=True)
class Share:
    """An estimated share of images, its standard error, and how many images it rests on."""

    ratio: float
    standard_error: float
    images: int

    @property
    def lower(self) -> float:
        """The true share is at least this, at 99 % confidence."""
        return max(self.ratio - SURE * self.standard_error, 0.0)  # NaN stays NaN


class Prevalence:
    """At least how much of the latest traffic is OOD (Storey, JRSS B 2002): ID images have p-values above SPLIT in a known share, so where
    fewer are seen the rest are strangers. Strangers that look usual are not seen: a lower bound on average.
    """

    def __init__(self, calibration_images: int, window: int) -> None:
        self.calibration_images = calibration_images
        self.usual: deque[bool] = deque(maxlen=window)
        self.count = 0

    def observe(self, p_values: Iterable[float]) -> None:
        """p-values (N,) of further images."""
        for p_value in p_values:
            usual = bool(p_value > SPLIT)
            if len(self.usual) == self.usual.maxlen:
                self.count -= self.usual[0]
            self.usual.append(usual)
            self.count += usual

    def estimate(self) -> Share:
        return estimate([self])


def estimate(windows: list[Prevalence]) -> Share:
    """Over several windows as if they were one. NaN where there is no image."""
    images = sum(len(window.usual) for window in windows)
    if not images:
        return Share(math.nan, math.nan, 0)
    usual = sum(window.count for window in windows)
    id_ratio = min(1.0, (1 + usual) / (images * (1 - SPLIT)))
    # Shrunk a little towards one half: at no usual image at all, the plain formula's error is none.
    seen = (1 + usual) / (images + 2)
    sampling = seen * (1 - seen) / (images * (1 - SPLIT) ** 2)
    # The calibration set is a sample as well: the share of ID images above SPLIT is known no better than this.
    calibration = id_ratio**2 * SPLIT / ((1 - SPLIT) * min(window.calibration_images for window in windows))
    return Share(1 - id_ratio, math.sqrt(sampling + calibration), images)
