"""A caller's place in a batcher's queue: from before its rows exist until it is answered, or is not."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
# By then most are answered: to look whether a caller is still there costs as much as many a stage.
UNWATCHED_SECONDS = 0.05


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
    """A caller's place: `held` rows of the queue, from before the rows exist until a batch takes them.

    `future` is the one thing to wait on, whatever stage the caller is in: it ends with the answer, or with why there is none.
    `parts`: by the row they begin with, because batches that run side by side do not end in the order in which they began.
    """

    held: int
    deadline: float
    future: asyncio.Future[Answered]
    rows: Sequence[Array] = ()
    taken: int = 0
    submitted: float = 0.0
    started: float = 0.0
    infer_seconds: float = 0.0
    parts: dict[int, tuple[Array, ...]] = field(default_factory=dict)
    broken: bool = False

    @property
    def left(self) -> int:
        """Rows that no batch has taken yet."""
        return len(self.rows) - self.taken

    @property
    def over(self) -> bool:
        """Answered, failed, or its caller is gone."""
        return self.broken or self.future.done()

    def fail(self, exc: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(exc)

    def expire(self) -> None:
        """The time is up. What already runs to the end is answered nevertheless."""
        if self.left or not self.rows:
            self.fail(late())

    def abandon(self) -> None:
        """The caller has gone: its rows take no room in a batch any more."""
        self.fail(gone())

    def close(self) -> None:
        """Nobody waits any more. What the future holds counts as read, lest asyncio reports it as forgotten."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()


class Stay:
    """A caller's time in its place, for `with`: the place is given up by its deadline, and at the end of the block.

    watch: is run beside a caller that has waited for UNWATCHED_SECONDS. leave: is told of the end. One timer for both, because each costs.
    """

    def __init__(self, place: Place, leave: Callable[[Place], None], watch: Callable[[Place], Coroutine[Any, Any, None]] | None = None) -> None:
        self.place = place
        self.leave = leave
        self.watch = watch
        self.watching: asyncio.Task[None] | None = None
        self.loop = place.future.get_loop()
        self.wait(UNWATCHED_SECONDS)

    def wait(self, most: float) -> None:
        # A loop that counts in milliseconds may come half of one too early.
        self.timer = self.loop.call_later(min(most, max(0, self.place.deadline - time.monotonic()) + 0.001), self.look)

    def look(self) -> None:
        if time.monotonic() >= self.place.deadline:
            self.place.expire()
            return
        if self.watch is not None and self.watching is None:
            self.watching = self.loop.create_task(self.watch(self.place))
        self.wait(math.inf)

    def __enter__(self) -> Place:
        return self.place

    def __exit__(self, *exc_info: object) -> None:
        self.timer.cancel()
        if self.watching is not None:
            self.watching.cancel()
        self.place.close()
        self.leave(self.place)


def gone() -> Departed:
    return Departed("the caller closed the connection before it was answered")


def late() -> DeadlinePassed:
    return DeadlinePassed("the request waited longer than its deadline allows")
