"""What every route that classifies does between reading its request and writing its answer: decode, wait, infer."""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from starlette.requests import Request
from starlette.types import Receive

from service.bundle.preprocess import Pixels
from service.context import context_of, timing_of
from service.decoder import Upload
from service.model import Model
from service.place import Place
from service.verdict import Judged


async def classify(request: Request, model: Model, images: Sequence[Upload] | Pixels, arrived: float, deadline: float) -> Judged:
    """Encoded pictures, or decoded ones (N, H, W, 3) -> what the model makes of them.

    arrived, deadline: as time.monotonic() counts. Raises QueueFull, RefusedImage, DeadlinePassed, Departed or InferenceFailed.
    """
    context, timing = context_of(request), timing_of(request)
    stage = context.metrics.stage
    read = time.monotonic()
    timing.images, timing.read = len(images), read - arrived
    stage["read"].observe(timing.read)
    with model.batcher.admit(len(images), deadline, partial(watch, request.receive)) as place:
        rows = list(images) if isinstance(images, np.ndarray) else await context.decoder.decode(images, model.manifest.input, place)
        timing.decode = time.monotonic() - read
        stage["decode"].observe(timing.decode)
        answered = await model.batcher.answer(place, rows)
    timing.queue, timing.infer = answered.queue_seconds, answered.infer_seconds
    return Judged.of(*answered.outputs)


async def watch(receive: Receive, place: Place) -> None:
    """Gives the caller's place up as soon as the connection is closed."""
    while (await receive())["type"] != "http.disconnect":
        pass
    place.abandon()
