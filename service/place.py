"""A caller's place in a batcher's queue: from before its rows exist until it is answered, or is not."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class DeadlinePassed(Exception):
    """The caller's time was up before its turn came."""


class Departed(Exception):
    """The caller has gone; nobody reads the answer."""


class InferenceFailed(Exception):
    """The batch that held the caller's rows raised."""


@dataclass(frozen=True)
class Answered:
    """One caller's rows of every output, and where its time went."""

    outputs: tuple[Array, ...]
    queue_seconds: float
    infer_seconds: float


@dataclass(eq=False)
class Place:
    """A caller's place: `held` rows of the queue, from before the rows exist until a batch takes them."""

    held: int
    deadline: float
    rows: Sequence[Array] = ()
    taken: int = 0
    submitted: float = 0.0
    started: float = 0.0
    infer_seconds: float = 0.0
    parts: list[tuple[Array, ...]] = field(default_factory=list)
    future: asyncio.Future[Answered] | None = None
    abandoned: bool = False
    broken: bool = False

    @property
    def over(self) -> bool:
        """Answered, failed, or its caller is gone."""
        return self.broken or self.future is None or self.future.done()

    def fail(self, exc: Exception) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(exc)

    def expire(self) -> None:
        if not self.taken:
            self.fail(late())

    def abandon(self) -> None:
        """The caller has gone: its rows take no room in a batch any more."""
        self.abandoned = True
        self.fail(gone())


def gone() -> Departed:
    return Departed("the caller closed the connection before it was answered")


def late() -> DeadlinePassed:
    return DeadlinePassed("the request waited longer than its deadline allows")
