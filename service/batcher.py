"""Many calls into few: gathers the rows of concurrent callers into batches and gives each caller its own back.

Greedy: when nothing runs, a worker thread takes what waits, so a lone call is not delayed and batches form by themselves while
another one runs. Side by side: with several workers the next batch begins before the last one has ended, as soon as it is worth
its while. Fair: where not all fit, every caller gets an equal share of a batch, so that a small call does not wait for a large
one to end. Knows nothing of HTTP, images or ONNX.
"""

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self

import numpy as np

from service.admission import Admission
from service.place import Answered, Array, InferenceFailed, Place, Stay, late

log = logging.getLogger(__name__)


# A batch beside another one: where fewer rows wait, they wait for more, or for the other one's end. With one row only, a small network is a
# fifth slower per row than with two; waiting for four costs more than it gains where few callers ask.
COMPANY = 2
# By how much the worker threads stand back: where CPUs are scarce the event loop goes first, whose little work is what the next batch waits for.
# With half as much it falls behind in overload, cannot even refuse in time, and does not recover.
NICE = 10
Run = Callable[[Array], tuple[Array, ...]]
# Of each caller: which row its part begins with, and the part.
Batch = list[tuple[Place, int, Sequence[Array]]]


class Batcher:
    """Runs `run` on stacked rows, (N, …) -> arrays with N rows each, in threads of its own.

    workers: how many batches may run at once; those that begin beside another one are run by `beside`. max_queue_size counts rows,
    not calls. `on_batch` is told the size of every batch, on the event loop.
    """

    def __init__(
        self,
        run: Run,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_delay_ms: float = 0.0,
        on_batch: Callable[[int], None] | None = None,
        beside: Run | None = None,
        workers: int = 1,
    ) -> None:
        self.run = run
        self.beside = beside or run
        self.max_batch_size = max_batch_size
        self.company = min(COMPANY, max_batch_size)
        self.admission = Admission(max_batch_size, max_queue_size, workers * self.company)
        self.max_queue_delay = max_queue_delay_ms / 1000
        self.on_batch = on_batch
        self.waiting: deque[Place] = deque()
        self.changed = threading.Condition()
        self.running = 0
        self.closing = False
        self.threads = [threading.Thread(target=self.work, args=(number,), name=f"batcher-{number}", daemon=True) for number in range(workers)]

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        for thread in self.threads:
            thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.threads:
            await asyncio.to_thread(thread.join)
        for place in self.waiting:
            place.fail(InferenceFailed("the server is shutting down"))

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self.threads)

    def refuse_when_full(self, rows: int = 1) -> None:
        """Raises QueueFull when so many rows would not fit now."""
        self.admission.check(rows, self.running > 0)

    def admit(self, rows: int, deadline: float, watch: Callable[[Place], Coroutine[Any, Any, None]] | None = None) -> Stay:
        """A place for so many rows, to be kept while they are prepared and answered, until a time.monotonic(). Raises QueueFull.

        watch: is run beside a caller that has waited for a while.
        """
        place = Place(rows, deadline, self.loop.create_future())
        with self.changed:
            self.refuse_when_full(rows)
            self.admission.enter(place)
        return Stay(place, self.leave, watch)

    def leave(self, place: Place) -> None:
        with self.changed:
            self.admission.leave(place, place.held)

    async def answer(self, place: Place, rows: Sequence[Array]) -> Answered:
        """The outputs for a caller's rows. Raises DeadlinePassed, Departed or InferenceFailed."""
        if time.monotonic() >= place.deadline:
            place.fail(late())
        if not place.over:
            with self.changed:
                place.rows, place.submitted = rows, time.monotonic()
                self.waiting.append(place)
                # Whoever ends a batch looks for itself; to wake another thread for nothing costs more than all of this function.
                if self.worthwhile():
                    self.changed.notify()
        return await place.future

    def worthwhile(self) -> bool:
        """Whether to begin a batch with what waits."""
        return bool(self.waiting) and (not self.running or self.rows_waiting() >= self.company)

    def rows_waiting(self) -> int:
        return sum(place.left for place in self.waiting)

    def work(self, number: int) -> None:
        """A worker thread: takes, runs, hands out, until closed."""
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICE)
        anywhere = here = os.sched_getaffinity(0)
        # A CPU for each, where there are as many: left to itself, Linux lets two batches share one for milliseconds while another is idle.
        apart = {sorted(anywhere)[number]} if len(anywhere) == len(self.threads) else anywhere
        while batch := self.take():
            with self.changed:
                alone = self.running == 1 and not self.worthwhile()
            if (wanted := anywhere if alone else apart) != here:
                stay_on(here := wanted)
            started = time.monotonic()
            for place, _, _ in batch:
                place.started = place.started or started
            try:
                outputs = (self.run if alone else self.beside)(np.array([row for _, _, rows in batch for row in rows]))
            except Exception as exc:  # whatever it was, everyone in this batch must be told
                log.exception("a batch of %d failed", sum(len(rows) for _, _, rows in batch))
                for place, _, _ in batch:
                    # Before the loop gets to tell them: the rest of a large call must not be taken meanwhile.
                    place.broken = True
                self.loop.call_soon_threadsafe(self.fail, batch, exc)
            else:
                ended = time.monotonic()
                self.loop.call_soon_threadsafe(self.deliver, batch, outputs, ended - started, ended)
            with self.changed:
                self.running -= 1

    def take(self) -> Batch:
        """Waits for rows and takes as many as fit, in order; empty when closing."""
        with self.changed:
            while not self.closing:
                self.drop_over()
                if self.worthwhile():
                    left = self.waiting[0].submitted + self.max_queue_delay - time.monotonic()
                    if left <= 0 or self.rows_waiting() >= self.max_batch_size:
                        batch = self.fill()
                        self.running += 1
                        if self.worthwhile():
                            self.changed.notify()
                        return batch
                    self.changed.wait(left)
                else:
                    self.changed.wait()
            return []

    def drop_over(self) -> None:
        """Those whose caller has gone or whose time is up take no room in a batch."""
        now = time.monotonic()
        for place in self.waiting:
            if place.deadline <= now and not place.over:
                self.loop.call_soon_threadsafe(place.expire)
        self.waiting = deque(place for place in self.waiting if not place.over and place.deadline > now)

    def fill(self) -> Batch:
        """An equal share of a batch for everyone in reach; what a small call does not need, the large ones get."""
        room = self.max_batch_size
        rows, workers = self.rows_waiting(), len(self.threads)
        if rows >= workers * self.company:
            # A part for each worker: side by side they end sooner than together on one batch, and none has to wait for new rows.
            room = min(room, math.ceil(rows / workers))
        shares = dict.fromkeys(islice(self.waiting, room), 0)
        while room and (hungry := [place for place, share in shares.items() if share < place.left]):
            equal = max(1, room // len(hungry))
            for place in hungry:
                more = min(equal, place.left - shares[place], room)
                shares[place] += more
                room -= more
        batch: Batch = []
        for place, share in shares.items():
            self.waiting.popleft()
            batch.append((place, place.taken, place.rows[place.taken : place.taken + share]))
            place.taken += share
            self.admission.leave(place, min(place.held, share))
            if place.left:
                # Behind those that had no turn yet.
                self.waiting.append(place)
        return batch

    def deliver(self, batch: Batch, outputs: tuple[Array, ...], seconds: float, ended: float) -> None:
        """Hands a batch's rows out, on the event loop."""
        size = sum(len(rows) for _, _, rows in batch)
        self.admission.ran(seconds / size / len(self.threads), time.monotonic() - ended)
        if self.on_batch is not None:
            self.on_batch(size)
        start = 0
        for place, begin, rows in batch:
            stop = start + len(rows)
            place.parts[begin] = tuple(output[start:stop] for output in outputs)
            place.infer_seconds += seconds
            start = stop
            if not place.over and sum(len(part[0]) for part in place.parts.values()) == len(place.rows):
                parts = [place.parts[begin] for begin in sorted(place.parts)]
                joined = parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))
                place.future.set_result(Answered(joined, place.started - place.submitted, place.infer_seconds))

    def fail(self, batch: Batch, exc: Exception) -> None:
        for place, _, _ in batch:
            failure = InferenceFailed("the model could not be run on the batch that held this request")
            failure.__cause__ = exc
            place.fail(failure)


def stay_on(cpus: set[int]) -> None:
    """Lets this thread run on these CPUs alone; where a sandbox forbids that, wherever it may."""
    with suppress(OSError):
        os.sched_setaffinity(0, cpus)
