"""What people say afterwards about answered images: running rates of false rejects and missed OOD, with exact bounds."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, Literal, TypeVar

Truth = Literal["id", "ood"]
Decision = Literal["accepted", "rejected"]
CONFIDENCE = 0.95
T = TypeVar("T")


class UnknownRequest(Exception):
    """No such request is remembered, or the model that answered it is not loaded any more."""


class WrongFeedback(Exception):
    """It does not fit the request that it is about."""


@dataclass(frozen=True)
class Rate:
    """`events` among `images`; lower and upper: two-sided Clopper-Pearson bounds at CONFIDENCE. `ratio` is NaN without images."""

    images: int
    events: int

    @property
    def ratio(self) -> float:
        return self.events / self.images if self.images else math.nan

    @property
    def lower(self) -> float:
        return beta_quantile((1 - CONFIDENCE) / 2, self.events, self.images - self.events + 1) if self.events else 0.0

    @property
    def upper(self) -> float:
        return beta_quantile((1 + CONFIDENCE) / 2, self.events + 1, self.images - self.events) if self.events < self.images else 1.0


@dataclass
class Tally:
    """Images of which the truth was told, by truth and by what the model's own gate had decided."""

    counts: dict[tuple[Truth, Decision], int] = field(
        default_factory=lambda: {("id", "accepted"): 0, ("id", "rejected"): 0, ("ood", "accepted"): 0, ("ood", "rejected"): 0}
    )

    @property
    def false_reject(self) -> Rate:
        rejected = self.counts["id", "rejected"]
        return Rate(self.counts["id", "accepted"] + rejected, rejected)

    @property
    def missed_ood(self) -> Rate:
        accepted = self.counts["ood", "accepted"]
        return Rate(accepted + self.counts["ood", "rejected"], accepted)


@dataclass
class Answered(Generic[T]):
    """One request's images: who answered, which the gate rejected, and the truth where it has been told."""

    by: T
    rejected: list[bool]
    truth: dict[int, Truth] = field(default_factory=dict)

    def tell(self, position: int, truth: Truth, tally: Tally) -> Decision:
        """Counts the truth about an image, the first being 1; told again, it replaces what was told before."""
        decision: Decision = "rejected" if self.rejected[position - 1] else "accepted"
        if (before := self.truth.get(position)) is not None:
            tally.counts[before, decision] -= 1
        tally.counts[truth, decision] += 1
        self.truth[position] = truth
        return decision


class Recent(Generic[T]):
    """The latest requests by id, at most `size`. An id used again stands for the later request."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.requests: OrderedDict[str, Answered[T]] = OrderedDict()

    def remember(self, request_id: str, answered: Answered[T]) -> None:
        self.requests.pop(request_id, None)
        self.requests[request_id] = answered
        if len(self.requests) > self.size:
            self.requests.popitem(last=False)

    def find(self, request_id: str) -> Answered[T] | None:
        return self.requests.get(request_id)


@lru_cache(maxsize=256)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Where Beta(a, b), a and b at least 1, has this probability below it. By bisection: the distribution function is monotone."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if beta_below(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_below(x: float, a: float, b: float) -> float:
    """P(Beta(a, b) <= x), by its continued fraction (DLMF 8.17.22, evaluated as Lentz does)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_below(1 - x, b, a)
    if x <= 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for step in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / (1 + step * d)
            c = 1 + step / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return math.exp(log_front) * fraction / a
