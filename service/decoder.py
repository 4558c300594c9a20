"""Decodes the pictures of many requests side by side, in threads of its own; on the event loop only what takes it less than to hand it over."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from PIL import Image

from service.bundle.preprocess import InputSpec, InvalidImage, Pixels, TooManyPixels, decode
from service.place import Place
from service.turns import Turns

# A picture this small is decoded in a tenth of a millisecond. In a thread it would wait for the interpreter's lock several times, and each
# wait takes as long as the event loop likes.
SMALL_BYTES = 8 * 1024
SMALL_SIDE = 128
# Seconds that a picture lets others go first, for each of its bytes: a photograph of 3 MB takes a third of a second to decode, and behind some of
# them a small picture would wait for seconds.
HANDICAP = 1e-6


@dataclass(frozen=True)
class Upload:
    """One encoded picture as it came, and its file name if it had one."""

    data: bytes
    filename: str | None = None


class RefusedImage(Exception):
    """One picture of a request cannot be answered, hence the request is not. `position` counts from 1."""

    def __init__(self, cause: InvalidImage, position: int, total: int, filename: str | None) -> None:
        name = f" ({filename})" if filename else ""
        super().__init__(f"image {position} of {total}{name}: {cause}" if total > 1 or filename else str(cause))
        self.cause = cause
        self.position = position
        self.filename = filename


class Decoder:
    """Pillow releases the GIL while it decodes: as many threads as there are CPUs is enough, more only thrash."""

    def __init__(self, threads: int, max_image_pixels: int) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.threads = threads
        self.turns = Turns(threads)
        self.max_image_pixels = max_image_pixels

    def __enter__(self) -> Self:
        # Pillow imports its formats when it meets a picture for the first time, the rarer ones when it meets one that it does not know.
        Image.init()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)

    async def decode(self, uploads: Sequence[Upload], spec: InputSpec, place: Place | None = None) -> list[Pixels]:
        """One (crop, crop, 3) array per picture. Raises RefusedImage for the first that is no good.

        place: the caller's; when it ends, by its deadline or because the caller has gone, so does the decoding.
        """
        if len(uploads) == 1 and len(uploads[0].data) <= SMALL_BYTES and spec.resize <= SMALL_SIDE:
            try:
                return [decode(uploads[0].data, spec, min(SMALL_SIDE**2, self.max_image_pixels))]
            except TooManyPixels:
                # In a thread: it may be many, and whether it is too many is said there.
                pass
            except InvalidImage as exc:
                raise RefusedImage(exc, 1, 1, uploads[0].filename) from exc
        loop = asyncio.get_running_loop()
        end: set[asyncio.Future[Any]] = {place.future} if place else set()
        jobs: deque[asyncio.Task[Pixels]] = deque()
        rows: list[Pixels] = []
        coming = iter(uploads)
        try:
            while len(rows) < len(uploads):
                # A request occupies no more than every thread once: those of a large one must not all stand before a small one's.
                for upload in islice(coming, self.threads - len(jobs)):
                    jobs.append(loop.create_task(self.decode_one(upload.data, spec)))
                await asyncio.wait({jobs[0], *end}, return_when=asyncio.FIRST_COMPLETED)
                if place and place.future.done():
                    place.future.result()
                try:
                    rows.append(await jobs[0])
                except InvalidImage as exc:
                    raise RefusedImage(exc, len(rows) + 1, len(uploads), uploads[len(rows)].filename) from exc
                jobs.popleft()
        finally:
            for job in jobs:
                # Those not begun never run. What the others raised is read, lest asyncio reports it as forgotten.
                if not job.cancel() and not job.cancelled():
                    job.exception()
        return rows

    async def decode_one(self, data: bytes, spec: InputSpec) -> Pixels:
        await self.turns.take(HANDICAP * len(data))
        try:
            job = asyncio.get_running_loop().run_in_executor(self.executor, decode, data, spec, self.max_image_pixels)
        except RuntimeError:
            # No thread can be started.
            self.turns.give()
            raise
        job.add_done_callback(self.ended)
        # Not cancelled when nobody waits any more: the thread works on, and keeps its place so long.
        await asyncio.wait({job})
        return job.result()

    def ended(self, job: asyncio.Future[Pixels]) -> None:
        self.turns.give()
        if not job.cancelled():
            job.exception()
