import asyncio
import time

import pytest

from service.admission import Admission, QueueFull
from service.place import Place

LOOP = asyncio.new_event_loop()
LOOP.close()


def place(rows: int) -> Place:
    return Place(rows, time.monotonic() + 60, LOOP.create_future())


def overloaded(*rows: int) -> Admission:
    """Two workers and so many rows of waiting calls, just after somebody was refused."""
    admission = Admission(max_batch_size=32, max_queue_size=256, busy=8)
    for count in rows:
        admission.enter(place(count))
    admission.refused_at = time.monotonic()
    return admission


def test_in_overload_a_large_call_comes_in_beside_small_ones() -> None:
    overloaded(*[1] * 16).check(32, running=True)
    with pytest.raises(QueueFull, match="17 images are waiting, at most 24 may"):
        overloaded(*[1] * 17).check(32, running=True)
    overloaded(*[1] * 23).check(1, running=True)


def test_in_overload_a_large_call_does_not_keep_small_ones_out() -> None:
    overloaded(32, 32).check(1, running=True)
    with pytest.raises(QueueFull, match="96 images are waiting, at most 24 may"):
        overloaded(32, 32, 32).check(1, running=True)


def test_the_queue_never_holds_more_rows_than_it_may() -> None:
    overloaded(200).check(56, running=True)
    with pytest.raises(QueueFull):
        overloaded(200).check(57, running=True)
    with pytest.raises(QueueFull):
        overloaded().check(257, running=False)


def test_a_large_call_counts_for_less_once_less_of_it_waits() -> None:
    admission, large = overloaded(), place(32)
    admission.enter(large)
    for left, crowd in ((30, 8), (8, 8), (5, 5), (0, 0)):
        admission.leave(large, large.held - left)
        assert (admission.held, admission.crowd, large.held) == (left, crowd, left)
