"""Decodes the pictures of many requests side by side, in threads of its own and never on the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from service.bundle.preprocess import InputSpec, InvalidImage, Pixels, decode


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
        self.max_image_pixels = max_image_pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)

    async def decode(self, uploads: Sequence[Upload], spec: InputSpec) -> list[Pixels]:
        """One (crop, crop, 3) array per picture. Raises RefusedImage for the first that is no good."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self.executor, decode, upload.data, spec, self.max_image_pixels) for upload in uploads]
        rows = []
        try:
            for position, (upload, job) in enumerate(zip(uploads, jobs, strict=True), start=1):
                try:
                    rows.append(await job)
                except InvalidImage as exc:
                    raise RefusedImage(exc, position, len(uploads), upload.filename) from exc
        finally:
            for job in jobs[len(rows) :]:
                # Those not begun never run. What the others raised is read, lest asyncio reports it as forgotten.
                if not job.cancel() and not job.cancelled():
                    job.exception()
        return rows
