import asyncio
import time

import pytest

from service.batcher import Batcher
from service.place import DeadlinePassed, Departed
from tests.doubler import Doubler, ask, hold_up, later, row, run


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


def test_a_place_is_given_back_when_its_rows_never_come() -> None:
    async def test() -> None:
        async with Batcher(Doubler(), 8, 5) as batcher:
            with pytest.raises(ValueError, match="undecodable"), batcher.admit(5, later()):
                raise ValueError("undecodable")
            assert await ask(batcher, 1, 2, 3, 4, 5) == [2, 4, 6, 8, 10]

    run(test)
