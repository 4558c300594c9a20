"""A model for the batcher that can be held up and made to fail, and the ways to ask it."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from service.batcher import Batcher
from service.place import Array


class Doubler:
    """A model that doubles its rows, fails on a negative one, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        self.batches.append(rows[:, 0].tolist())
        assert self.gate.wait(10)
        if (rows < 0).any():
            raise ValueError("negative")
        return 2 * rows, rows + 1


def row(value: int) -> Array:
    return np.array([value])


def later(seconds: float = 10) -> float:
    return time.monotonic() + seconds


async def ask(batcher: Batcher, *values: int, deadline: float | None = None) -> list[int]:
    with batcher.admit(len(values), deadline or later()) as place:
        answered = await batcher.answer(place, [row(value) for value in values])
    assert [output[:, 0].tolist() for output in answered.outputs][1] == [value + 1 for value in values]
    doubled: list[int] = answered.outputs[0][:, 0].tolist()
    return doubled


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def hold_up(model: Doubler, batcher: Batcher) -> asyncio.Task[list[int]]:
    """A first call that occupies the worker, so that those after it wait."""
    model.gate.clear()
    first = asyncio.create_task(ask(batcher, 0))
    while not model.batches:
        await asyncio.sleep(0.001)
    return first
