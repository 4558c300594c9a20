import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from service.batcher import Array, Batcher, DeadlinePassed, Departed, InferenceFailed, QueueFull


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


def test_each_of_64_concurrent_callers_gets_its_own_rows() -> None:
    async def test() -> None:
        async with Batcher(Doubler(), 8, 1000) as batcher:
            calls = [(value, value + 100, value + 200)[: value % 3 + 1] for value in range(64)]
            answers = await asyncio.gather(*(ask(batcher, *values) for values in calls))
            assert answers == [[2 * value for value in values] for values in calls]

    run(test)


def test_those_who_waited_for_a_batch_share_the_next_one() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            first = await hold_up(model, batcher)
            rest = [asyncio.create_task(ask(batcher, value)) for value in range(1, 11)]
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(first, *rest)
            assert [len(batch) for batch in model.batches] == [1, 8, 2]

    run(test)


def test_a_failing_batch_fails_its_callers_and_no_one_else() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 2, 100) as batcher:
            first = await hold_up(model, batcher)
            rest = [asyncio.create_task(ask(batcher, value)) for value in (1, -1, 2, 3)]
            await asyncio.sleep(0.01)
            model.gate.set()
            results = await asyncio.gather(first, *rest, return_exceptions=True)
            assert isinstance(results[1], InferenceFailed)
            assert isinstance(results[2], InferenceFailed)
            assert isinstance(results[1].__cause__, ValueError)
            assert (results[0], results[3], results[4]) == ([0], [4], [6])
            assert await ask(batcher, 5) == [10]

    run(test)


def test_a_call_larger_than_a_batch_is_answered_from_several() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 4, 100) as batcher:
            neighbours = [asyncio.create_task(ask(batcher, value)) for value in (100, 200)]
            assert await ask(batcher, *range(11)) == [2 * value for value in range(11)]
            assert await asyncio.gather(*neighbours) == [[200], [400]]
            assert max(len(batch) for batch in model.batches) == 4

    run(test)


def test_when_one_part_of_a_large_call_fails_the_rest_is_not_run() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 2, 100) as batcher:
            with pytest.raises(InferenceFailed):
                await ask(batcher, -1, *range(20))
            assert len(model.batches) <= 3
            assert await ask(batcher, 3) == [6]
            assert batcher.held == 0

    run(test)


def test_a_cancelled_caller_is_dropped_before_the_batch() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            first = await hold_up(model, batcher)
            cancelled, kept = (asyncio.create_task(ask(batcher, value)) for value in (1, 2))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(first, kept)
            assert model.batches == [[0], [2]]

    run(test)


def test_a_departed_caller_is_told_at_once_and_its_rows_are_dropped() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            first = await hold_up(model, batcher)
            with batcher.admit(1, later()) as place:
                asyncio.get_running_loop().call_later(0.01, place.abandon)
                with pytest.raises(Departed):
                    await batcher.answer(place, [row(1)])
            model.gate.set()
            await first
            await ask(batcher, 2)
            assert model.batches == [[0], [2]]

    run(test)


def test_a_caller_that_departed_before_its_rows_were_ready_takes_no_turn() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            with batcher.admit(1, later()) as place:
                place.abandon()
                with pytest.raises(Departed):
                    await batcher.answer(place, [row(1)])
            assert model.batches == []

    run(test)


def test_a_caller_whose_deadline_passes_is_told_then_and_not_when_the_batch_ends() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            first = await hold_up(model, batcher)
            started = time.monotonic()
            with pytest.raises(DeadlinePassed):
                await ask(batcher, 1, deadline=later(0.03))
            assert time.monotonic() - started < 5
            model.gate.set()
            await first
            await ask(batcher, 2)
            assert model.batches == [[0], [2]]

    run(test)


def test_a_deadline_that_passed_before_the_queue_is_refused() -> None:
    async def test() -> None:
        async with Batcher(Doubler(), 8, 100) as batcher:
            with pytest.raises(DeadlinePassed):
                await ask(batcher, 1, deadline=later(-1))

    run(test)


def test_a_running_batch_is_not_cut_short_by_a_deadline() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            model.gate.clear()
            asyncio.get_running_loop().call_later(0.1, model.gate.set)
            assert await ask(batcher, 1, deadline=later(0.03)) == [2]

    run(test)


def test_the_queue_is_bounded_in_rows_and_says_when_to_come_back() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 5) as batcher:
            first = await hold_up(model, batcher)
            waiting = asyncio.create_task(ask(batcher, 1, 2, 3))
            await asyncio.sleep(0.01)
            with pytest.raises(QueueFull, match="3 images are waiting, at most 5 may") as refused:
                await ask(batcher, 4, 5, 6)
            assert refused.value.retry_after_seconds >= 1
            others = asyncio.create_task(ask(batcher, 4, 5))
            await asyncio.sleep(0.01)
            with pytest.raises(QueueFull):
                batcher.refuse_when_full()
            model.gate.set()
            await asyncio.gather(first, waiting, others)
            assert batcher.held == 0

    run(test)


def test_the_wait_it_names_grows_with_the_queue_and_the_time_a_row_takes() -> None:
    batcher = Batcher(Doubler(), 8, 100)
    batcher.seconds_per_row, batcher.held = 0.1, 100
    with pytest.raises(QueueFull) as refused:
        batcher.refuse_when_full()
    assert refused.value.retry_after_seconds == 10


def test_a_place_is_given_back_when_its_rows_never_come() -> None:
    async def test() -> None:
        async with Batcher(Doubler(), 8, 5) as batcher:
            with pytest.raises(ValueError, match="undecodable"), batcher.admit(5, later()):
                raise ValueError("undecodable")
            assert await ask(batcher, 1, 2, 3, 4, 5) == [2, 4, 6, 8, 10]

    run(test)


def test_a_lone_call_is_not_delayed() -> None:
    async def test() -> None:
        async with Batcher(Doubler(), 8, 100) as batcher:
            seconds = []
            for value in range(50):
                started = time.monotonic()
                await ask(batcher, value)
                seconds.append(time.monotonic() - started)
            assert np.median(seconds) < 0.01

    run(test)


def test_with_a_delay_a_call_waits_for_company_but_no_longer() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 2, 100, max_queue_delay_ms=200) as batcher:
            started = time.monotonic()
            await asyncio.gather(ask(batcher, 1), ask(batcher, 2))
            assert model.batches == [[1, 2]]
            assert time.monotonic() - started < 0.15
            await ask(batcher, 3)
            assert time.monotonic() - started > 0.2

    run(test)


def test_batches_of_one_work() -> None:
    async def test() -> None:
        sizes: list[int] = []
        async with Batcher(Doubler(), 1, 100, on_batch=sizes.append) as batcher:
            assert await asyncio.gather(*(ask(batcher, value, value) for value in range(4))) == [[0, 0], [2, 2], [4, 4], [6, 6]]
            assert sizes == [1] * 8

    run(test)


def test_those_who_still_wait_when_it_closes_are_told() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 100) as batcher:
            first = await hold_up(model, batcher)
            waiting = asyncio.create_task(ask(batcher, 1))
            await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.05, model.gate.set)
        assert not batcher.alive
        assert await first == [0]
        with pytest.raises(InferenceFailed, match="shutting down"):
            await waiting

    run(test)
