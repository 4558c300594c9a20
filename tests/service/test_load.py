import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from service.load import LOST, Caller, Run, Target, closed_loop, open_loop, percentiles


class Sleeper:
    """Answers after a while, or never."""

    under_way = most = 0

    def __init__(self, load: Run, seconds: float | None, status: int, read_for: float) -> None:
        self.load = load
        self.read_for = read_for
        self.seconds = seconds
        self.status = status

    def send(self, due: float) -> None:
        Sleeper.under_way += 1
        Sleeper.most = max(Sleeper.most, Sleeper.under_way)
        if self.seconds is not None:
            asyncio.get_running_loop().call_later(self.seconds, self.answer, due)

    def answer(self, due: float) -> None:
        Sleeper.under_way -= 1
        self.load.done(self, due, self.status, time.perf_counter() - self.read_for)


def sleeping(seconds: float | None, status: int = 200, read_for: float = 0) -> Target:
    @asynccontextmanager
    async def target() -> AsyncIterator[Callable[[Run], Awaitable[Caller]]]:
        async def make(load: Run) -> Caller:
            return Sleeper(load, seconds, status, read_for)

        Sleeper.under_way = Sleeper.most = 0
        yield make

    return target


def test_a_closed_loop_keeps_every_caller_busy_and_no_more() -> None:
    outcome = closed_loop(sleeping(0.02), 5, 0.5, 0.1)
    assert Sleeper.most == 5
    assert outcome.asked == {"loop": "closed", "connections": 5}
    # 250 on a machine with nothing else to do.
    assert 25 < outcome.statuses["200"] <= 255
    assert outcome.answered_per_second == outcome.statuses["200"] / 0.5
    assert outcome.answered_ms["p50"] >= 19


def test_an_open_loop_asks_when_requests_are_due_and_counts_what_they_waited() -> None:
    # One caller can answer 20 in a second, so the last of about 100 has waited for all before it.
    outcome = open_loop(sleeping(0.05), rate=50, seconds=1, warm_seconds=0, callers=1)
    assert Sleeper.most == 1
    assert outcome.statuses["200"] in range(30, 70)
    assert outcome.answered_ms["max"] > 300
    assert outcome.asked == {"loop": "open", "rate": 50}


def test_an_open_loop_with_enough_callers_lets_nobody_wait() -> None:
    outcome = open_loop(sleeping(0.01), rate=100, seconds=0.5, warm_seconds=0, callers=64)
    assert 1 < Sleeper.most < 64
    assert outcome.answered_ms["p50"] < 200


def test_the_time_that_a_caller_takes_to_read_its_answer_is_not_the_servers() -> None:
    outcome = closed_loop(sleeping(0.05, read_for=0.04), 2, 0.5, 0)
    assert outcome.statuses["200"] > 2
    assert outcome.answered_ms["p50"] < 49


def test_refusals_are_timed_apart_from_answers() -> None:
    outcome = closed_loop(sleeping(0.01, status=429), 2, 0.2, 0)
    assert set(outcome.statuses) == {"429"}
    assert outcome.answered_per_second == 0
    assert outcome.answered_ms == {}
    assert outcome.refused_ms["p50"] >= 9


def test_requests_that_are_never_answered_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.load.GRACE_SECONDS", 0.1)
    assert closed_loop(sleeping(None), 3, 0.1, 0).statuses == {str(LOST): 3}


def test_percentiles_are_those_of_the_times_in_milliseconds() -> None:
    found = percentiles(value / 1000 for value in range(1, 1002))
    assert found == {"mean": 501, "p50": 501, "p90": 901, "p99": 991, "p99_9": 1000, "max": 1001}
