"""What every route that classifies does between reading its request and writing its answer: decode, wait, infer, count."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from starlette.requests import Request
from starlette.types import Receive

from service.bundle.preprocess import Pixels
from service.context import context_of, timing_of
from service.decoder import Upload
from service.model import Model
from service.place import Place
from service.verdict import Judged

UNWATCHED_SECONDS = 0.05


async def classify(request: Request, model: Model, images: Sequence[Upload] | Pixels, arrived: float, deadline: float) -> Judged:
    """Encoded pictures, or decoded ones (N, H, W, 3) -> what the model makes of them.

    arrived, deadline: as time.monotonic() counts. Raises QueueFull, RefusedImage, DeadlinePassed, Departed or InferenceFailed.
    """
    context, timing = context_of(request), timing_of(request)
    stage = context.metrics.stage
    read = time.monotonic()
    timing.images, timing.read = len(images), read - arrived
    stage["read"].observe(timing.read)
    with model.batcher.admit(len(images), deadline) as place, watching(request.receive, place):
        rows = list(images) if isinstance(images, np.ndarray) else await context.decoder.decode(images, model.manifest.input, place)
        timing.decode = time.monotonic() - read
        stage["decode"].observe(timing.decode)
        answered = await model.batcher.answer(place, rows)
    timing.queue, timing.infer = answered.queue_seconds, answered.infer_seconds
    stage["queue"].observe(timing.queue)
    stage["infer"].observe(timing.infer)
    return Judged.of(*answered.outputs)


def encoded(request: Request, inferred: float) -> None:
    """The answer is written; inferred: when that began, as time.monotonic() counts."""
    timing = timing_of(request)
    timing.encode = time.monotonic() - inferred
    context_of(request).metrics.stage["encode"].observe(timing.encode)


@contextmanager
def watching(receive: Receive, place: Place) -> Iterator[None]:
    """Gives the caller's place up once the connection is closed. Looks after a while: by then most are answered, and a task would cost as much
    as many a stage.
    """
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()
    timer = loop.call_later(UNWATCHED_SECONDS, lambda: tasks.append(loop.create_task(watch(receive, place))))
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()


async def watch(receive: Receive, place: Place) -> None:
    """Gives the caller's place up as soon as the connection is closed."""
    while (await receive())["type"] != "http.disconnect":
        pass
    place.abandon()
