"""Load for a server, and what came of it. Knows nothing of pictures or models: a caller is whatever can be asked.

Closed loop: so many callers, each asking again as soon as it is answered; finds the throughput. Open loop: requests come
when they come (Poisson), whether or not the server keeps up; finds the waiting times that users would see, each counted
from the moment a request was due, so that a stalled server cannot hide what it kept waiting.
"""

import asyncio
import gc
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import uvloop

OK, LOST = 200, 0
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "max": 100}
GRACE_SECONDS = 30.0


class Caller(Protocol):
    """Whatever asks. When it has its answer, or knows that there will be none, it tells its run's `done`, and when that was."""

    def send(self, due: float) -> None: ...


class Run:
    """Asks until time is up. `due`: when a request should have been sent, and `at`: when its answer was there, as time.perf_counter() counts.

    counts_answers: what must lie between `begin` and `end` for a request to be counted: its answer, or when it was due.
    """

    counts_answers: bool = False

    def __init__(self, warm_seconds: float, seconds: float) -> None:
        self.warm_seconds = warm_seconds
        self.seconds = seconds
        self.begin = self.end = 0.0
        self.under_way = 0
        self.records: list[tuple[float, float, int]] = []

    def start(self) -> None:
        """Once the callers are there: connecting takes time of its own."""
        self.begin = time.perf_counter() + self.warm_seconds
        self.end = self.begin + self.seconds

    def ask(self, caller: Caller, due: float) -> None:
        self.under_way += 1
        caller.send(due)

    def done(self, caller: Caller, due: float, status: int, at: float) -> None:
        self.under_way -= 1
        self.records.append((at if self.counts_answers else due, at - due, status))
        self.free(caller)

    def free(self, caller: Caller) -> None:
        """A caller has nothing to do."""
        raise NotImplementedError


class ClosedLoop(Run):
    """Each caller asks again at once."""

    counts_answers = True

    def free(self, caller: Caller) -> None:
        now = time.perf_counter()
        if now < self.end:
            self.ask(caller, now)


class OpenLoop(Run):
    """Requests come at random, `rate` in a second on average; those that find no caller free wait for one."""

    def __init__(self, warm_seconds: float, seconds: float, rate: float) -> None:
        super().__init__(warm_seconds, seconds)
        self.rate = rate
        self.idle: list[Caller] = []
        self.waiting: deque[float] = deque()

    def free(self, caller: Caller) -> None:
        if self.waiting:
            self.ask(caller, self.waiting.popleft())
        else:
            self.idle.append(caller)

    async def arrive(self) -> None:
        await asyncio.to_thread(self.pace, asyncio.get_running_loop())

    def pace(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own: an event loop's timers are good to the millisecond, which would make bursts of what should come evenly."""
        gaps, due = random.Random(0), time.perf_counter()
        while (due := due + gaps.expovariate(self.rate)) < self.end:
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            loop.call_soon_threadsafe(self.arrived, due)

    def arrived(self, due: float) -> None:
        if self.idle:
            self.ask(self.idle.pop(), due)
        else:
            self.waiting.append(due)


Target = Callable[[], AbstractAsyncContextManager[Callable[[Run], Awaitable[Caller]]]]


@dataclass(frozen=True)
class Outcome:
    """Requests by status (0: the connection was lost or nothing came), and how long those with 200 and the others took, in ms."""

    asked: dict[str, Any]
    seconds: float
    answered_per_second: float
    statuses: dict[str, int]
    answered_ms: dict[str, float]
    refused_ms: dict[str, float]


def closed_loop(target: Target, callers: int, seconds: float, warm_seconds: float = 1.0) -> Outcome:
    async def run() -> Outcome:
        async with target() as make:
            load = ClosedLoop(warm_seconds, seconds)
            made = [await make(load) for _ in range(callers)]
            await drive(load, made)
            return summarise({"loop": "closed", "connections": callers}, load)

    return with_loop(run)


def open_loop(target: Target, rate: float, seconds: float, warm_seconds: float = 1.0, callers: int = 256) -> Outcome:
    async def run() -> Outcome:
        async with target() as make:
            load = OpenLoop(warm_seconds, seconds, rate)
            made = [await make(load) for _ in range(callers)]
            await drive(load, made, load.arrive())
            return summarise({"loop": "open", "rate": round(rate, 2)}, load)

    return with_loop(run)


def with_loop(run: Callable[[], Any]) -> Outcome:
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome: Outcome = runner.run(run())
            return outcome
    finally:
        gc.enable()


async def drive(load: Run, callers: Sequence[Caller], arrivals: Awaitable[None] | None = None) -> None:
    """Until the end, and then until all that were asked have been answered."""
    load.start()
    for caller in callers:
        load.free(caller)
    if arrivals is not None:
        await arrivals
    else:
        await asyncio.sleep(load.end - time.perf_counter())
    while load.under_way and time.perf_counter() < load.end + GRACE_SECONDS:
        await asyncio.sleep(0.01)


def summarise(asked: dict[str, Any], load: Run) -> Outcome:
    counted = [(took, status) for at, took, status in load.records if load.begin <= at < load.end]
    statuses = Counter(status for _, status in counted)
    # Nothing came within the grace.
    statuses[LOST] += load.under_way + len(getattr(load, "waiting", ()))
    return Outcome(
        asked,
        load.seconds,
        round(statuses[OK] / load.seconds, 2),
        {str(status): number for status, number in sorted(statuses.items()) if number},
        percentiles(took for took, status in counted if status == OK),
        percentiles(took for took, status in counted if status != OK),
    )


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    took = 1000 * np.fromiter(seconds, float)
    if not len(took):
        return {}
    return {"mean": round(float(took.mean()), 3)} | {name: round(float(np.percentile(took, q)), 3) for name, q in PERCENTILES.items()}
