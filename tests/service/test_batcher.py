import asyncio
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from service import admission
from service.admission import QueueFull
from service.batcher import Batcher
from service.place import Array, DeadlinePassed, InferenceFailed
from tests.doubler import Doubler, ask, hold_up, run

CPUS = len(os.sched_getaffinity(0))


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
            assert batcher.admission.held == 0

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
            assert batcher.admission.held == 0

    run(test)


def test_the_wait_it_names_grows_with_the_queue_and_the_time_a_row_takes() -> None:
    batcher = Batcher(Doubler(), 8, 100)
    batcher.admission.seconds_per_row, batcher.admission.held = 0.1, 100
    with pytest.raises(QueueFull) as refused:
        batcher.refuse_when_full()
    assert refused.value.retry_after_seconds in range(10, 21)


def test_those_refused_together_are_not_told_to_come_back_together() -> None:
    batcher = Batcher(Doubler(), 8, 100)
    batcher.admission.seconds_per_row, batcher.admission.held = 0.1, 100
    waits = set()
    for _ in range(100):
        with pytest.raises(QueueFull) as refused:
            batcher.refuse_when_full()
        waits.add(refused.value.retry_after_seconds)
    assert len(waits) > 5


def test_a_burst_may_fill_the_queue_and_a_lasting_overload_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(admission, "BURST_SECONDS", 0.1)
        monkeypatch.setattr(admission, "RELIEF_SECONDS", 0.3)
        async with Batcher(model := Doubler(), 2, 6) as batcher:
            calls = [await hold_up(model, batcher)]
            for value in range(1, 6):
                calls.append(asyncio.create_task(ask(batcher, value)))
                await asyncio.sleep(0)
            await asyncio.sleep(0.15)
            with pytest.raises(QueueFull, match="5 images are waiting, at most 2 may"):
                await ask(batcher, 6)
            model.gate.set()
            await asyncio.gather(*calls)
            assert await ask(batcher, 7) == [14], "what fits into a batch is taken in overload too"
            calls = [await hold_up_again(model, batcher, 8)]
            for value in range(9, 11):
                calls.append(asyncio.create_task(ask(batcher, value)))
            await asyncio.sleep(0.01)
            with pytest.raises(QueueFull, match="at most 2 may"):
                await ask(batcher, 11)
            await asyncio.sleep(0.35)
            calls.append(asyncio.create_task(ask(batcher, 12)))
            await asyncio.sleep(0.01)
            model.gate.set()
            assert (await asyncio.gather(*calls))[-1] == [24], "nobody was refused for a while: a burst may fill the queue again"

    run(test)


def test_in_overload_nobody_comes_in_before_the_event_loop_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(admission, "BURST_SECONDS", 0)
        async with Batcher(model := Doubler(), 2, 6) as batcher:
            await ask(batcher, 0)
            calls = [await hold_up_again(model, batcher, 1), *(asyncio.create_task(ask(batcher, value)) for value in (2, 3, 4))]
            await asyncio.sleep(0.01)
            batcher.admission.lag = 1.0
            with pytest.raises(QueueFull, match="3 images are waiting, at most 0 may while the server is 1000 ms behind"):
                await ask(batcher, 5)
            model.gate.set()
            await asyncio.gather(*calls)
            assert batcher.admission.lag < 0.1
            assert await ask(batcher, 6) == [12]

    run(test)


def test_how_far_the_event_loop_is_behind_is_measured() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 2, 6) as batcher:
            call = await hold_up(model, batcher)
            model.gate.set()
            time.sleep(0.1)
            await call
            assert 0.05 < batcher.admission.lag < 5

    run(test)


async def hold_up_again(model: Doubler, batcher: Batcher, value: int) -> asyncio.Task[list[int]]:
    model.batches.clear()
    model.gate.clear()
    first = asyncio.create_task(ask(batcher, value))
    while not model.batches:
        await asyncio.sleep(0.001)
    return first


def test_a_second_worker_begins_beside_the_first_once_company_waits() -> None:
    async def test() -> None:
        alone, beside = Doubler(), Doubler()
        async with Batcher(alone, 8, 100, beside=beside, workers=2) as batcher:
            first = await hold_up(alone, batcher)
            second = asyncio.create_task(ask(batcher, 1))
            await asyncio.sleep(0.05)
            assert beside.batches == [], "one waits for another, or for the first batch to end"
            assert await asyncio.wait_for(ask(batcher, 2), 5) == [4]
            assert beside.batches == [[1, 2]]
            alone.gate.set()
            await asyncio.gather(first, second)
            assert await ask(batcher, 3) == [6]
            assert alone.batches == [[0], [3]]

    run(test)


def test_what_waits_is_shared_out_among_the_workers() -> None:
    async def test() -> None:
        alone, beside = Doubler(), Doubler()
        async with Batcher(alone, 32, 100, beside=beside, workers=2) as batcher:
            first = await hold_up(alone, batcher)
            calls = [asyncio.create_task(ask(batcher, value)) for value in range(1, 4)]
            beside.gate.clear()
            calls += [asyncio.create_task(ask(batcher, value)) for value in range(4, 17)]
            while not beside.batches:
                await asyncio.sleep(0.001)
            assert beside.batches == [list(range(1, 9))], "half of sixteen, the rest is for the worker that is still busy"
            alone.gate.set()
            while len(beside.batches) < 2:
                await asyncio.sleep(0.001)
            assert beside.batches[1] == list(range(9, 13)), "half of eight, on one CPU since another batch runs"
            beside.gate.set()
            await asyncio.gather(first, *calls)

    run(test)


class Located(Doubler):
    """Notes on which CPUs each batch may run."""

    def __init__(self) -> None:
        super().__init__()
        self.cpus: list[set[int]] = []

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        self.cpus.append(os.sched_getaffinity(0))
        return super().__call__(rows)


async def beside_each_other(workers: int) -> tuple[Located, Located]:
    """A lone batch, then two that both run beside another one, then a lone one."""
    alone, beside = Located(), Located()
    async with Batcher(alone, 8, 100, beside=beside, workers=workers) as batcher:
        calls = [await hold_up(alone, batcher)]
        beside.gate.clear()
        calls += [asyncio.create_task(ask(batcher, *range(2)))]
        while not beside.batches:
            await asyncio.sleep(0.001)
        alone.gate.set()
        calls += [asyncio.create_task(ask(batcher, *range(2)))]
        while len(beside.batches) < 2:
            await asyncio.sleep(0.001)
        beside.gate.set()
        await asyncio.gather(*calls)
        await ask(batcher, 1)
    return alone, beside


@pytest.mark.skipif(CPUS < 2, reason="one CPU alone")
def test_batches_beside_each_other_have_a_cpu_each_and_a_lone_one_has_all() -> None:
    async def test() -> None:
        alone, beside = await beside_each_other(CPUS)
        assert [len(cpus) for cpus in beside.cpus] == [1, 1]
        assert beside.cpus[0] != beside.cpus[1]
        assert alone.cpus == [os.sched_getaffinity(0)] * 2

    run(test)


def test_workers_choose_no_cpus_where_there_are_not_as_many() -> None:
    async def test() -> None:
        alone, beside = await beside_each_other(CPUS + 1)
        assert [*alone.cpus, *beside.cpus] == [os.sched_getaffinity(0)] * 4

    run(test)


@pytest.mark.skipif(CPUS < 2, reason="one CPU alone")
def test_a_sandbox_that_refuses_to_bind_threads_does_not_end_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    async def test() -> None:
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        alone, beside = await beside_each_other(CPUS)
        assert [*alone.cpus, *beside.cpus] == [os.sched_getaffinity(0)] * 4

    run(test)


def test_parts_of_a_call_that_end_in_another_order_are_put_in_their_own() -> None:
    async def test() -> None:
        alone, beside = Doubler(), Doubler()
        async with Batcher(alone, 4, 100, beside=beside, workers=2) as batcher:
            alone.gate.clear()
            call = asyncio.create_task(ask(batcher, *range(8)))
            while not beside.batches:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            alone.gate.set()
            assert await call == [2 * value for value in range(8)]

    run(test)


def test_small_calls_do_not_wait_for_a_large_one_to_end() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 1000) as batcher:
            first = await hold_up(model, batcher)
            large = asyncio.create_task(ask(batcher, *range(1000, 1100)))
            await asyncio.sleep(0.01)
            small = [asyncio.create_task(ask(batcher, value)) for value in range(1, 4)]
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(first, large, *small)
            assert sorted(model.batches[1])[:3] == [1, 2, 3], "the small ones are all in the next batch"
            assert len(model.batches[1]) == 8, "the large one has the room that they leave"

    run(test)


def test_large_calls_share_with_each_other_and_with_small_ones() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 8, 1000) as batcher:
            first = await hold_up(model, batcher)
            large = [asyncio.create_task(ask(batcher, *range(start, start + 40))) for start in (1000, 2000)]
            await asyncio.sleep(0.01)
            small = [asyncio.create_task(ask(batcher, value)) for value in range(100, 130)]
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(first, *large, *small)
            assert sorted(model.batches[1]) == [*range(100, 106), 1000, 2000], "a row for each of the first eight callers"
            last = max(place for place, batch in enumerate(model.batches) if any(value < 1000 for value in batch))
            assert last <= 6, "nobody waits for a second turn of the large ones"

    run(test)


def test_a_large_call_whose_time_is_up_takes_no_more_batches() -> None:
    async def test() -> None:
        async with Batcher(model := Doubler(), 2, 1000) as batcher:
            model.gate.clear()
            asyncio.get_running_loop().call_later(0.1, model.gate.set)
            with pytest.raises(DeadlinePassed):
                await ask(batcher, *range(100), deadline=time.monotonic() + 0.05)
            assert await ask(batcher, 7) == [14]
            assert len(model.batches) <= 3
            assert batcher.admission.held == 0

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


def test_its_threads_give_way_to_the_event_loop_however_low_the_process_stands_already() -> None:
    program = """
import asyncio, os, threading
from service.batcher import NICE, Batcher
os.nice(5)
async def main():
    async with Batcher(lambda rows: (rows,), 8, 100, workers=2) as batcher:
        await asyncio.sleep(0.1)
        for thread in batcher.threads:
            assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == 5 + NICE
        assert os.getpriority(os.PRIO_PROCESS, 0) == 5
asyncio.run(main())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


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
