"""What surrounds a run: the signals that stop it, and the other processes that torchrun started beside it."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
from torch import distributed


class Stopped(BaseException):
    """SIGTERM or SIGINT came; once training has begun, the checkpoint is written.

    No Exception: it may come up in the middle of a decoder, which must not take it for a broken picture.
    """


@contextlib.contextmanager
def signals(react: Callable[..., None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `react` until the end of the block."""
    before = {number: signal.signal(number, react) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_reading(*_: object) -> None:
    raise Stopped("stopped before the first step; nothing was written")


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the other processes that torchrun started, if it did."""
    if world_size() == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait while the first process of a machine reads a large set for the first time.
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def one_goes_ahead(local_rank: int) -> Iterator[None]:
    """The first process of each machine does the block alone, because it may have to download or convert what the others then find."""
    if world_size() > 1 and local_rank:
        distributed.barrier()
    yield
    if world_size() > 1 and not local_rank:
        distributed.barrier()
