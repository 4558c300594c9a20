import asyncio

import pytest

from service.turns import Turns


def order(*handicaps: float, after: float = 0) -> list[int]:
    """Of those that wait for the one place, in the order in which they came: who came through when."""

    async def run() -> list[int]:
        turns, came = Turns(1), []

        async def one(number: int, handicap: float) -> None:
            await turns.take(handicap)
            came.append(number)
            turns.give()

        await turns.take(0)
        tasks = []
        for number, handicap in enumerate(handicaps):
            tasks.append(asyncio.create_task(one(number, handicap)))
            await asyncio.sleep(after)
        turns.give()
        await asyncio.gather(*tasks)
        assert turns.free == 1
        return came

    return asyncio.run(run())


def test_equals_go_in_the_order_of_coming() -> None:
    assert order(1, 1, 1, 1) == [0, 1, 2, 3]


def test_what_costs_little_goes_before_what_costs_much() -> None:
    assert order(3, 2, 0, 1) == [2, 3, 1, 0]


def test_nobody_is_passed_by_those_that_come_later_than_its_handicap() -> None:
    assert order(0.02, 0, 0, 0, after=0.05) == [0, 1, 2, 3]


@pytest.mark.parametrize("given", [False, True])
def test_who_is_cancelled_passes_its_turn_on(given: bool) -> None:
    async def run() -> None:
        turns = Turns(1)
        await turns.take(0)
        first, second = (asyncio.create_task(turns.take(0)) for _ in range(2))
        await asyncio.sleep(0)
        if given:
            turns.give()
        first.cancel()
        await asyncio.sleep(0)
        if not given:
            turns.give()
        await asyncio.wait_for(second, 1)
        turns.give()
        assert turns.free == 1

    asyncio.run(run())
