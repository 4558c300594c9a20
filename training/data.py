"""Decoded pictures: once and into memory when they fit, else batch by batch.

Every picture goes through `service.bundle.preprocess`, so training sees what the service will see.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from service.bundle.preprocess import InputSpec, Pixels
from training.config import TrainingError
from training.devices import fits, move
from training.sources import Source

CURE = "`train --skip-unreadable` leaves such pictures out"
NAMED = 5  # unreadable pictures in one message


class Pictures:
    """Decoded pictures of one set: `take(rows)` gives uint8 (N, H, W, 3); `labels` is int64 (N,)."""

    def __init__(self, source: Source, spec: InputSpec, array: Pixels | None) -> None:
        self.classes = source.classes
        self.labels = torch.from_numpy(source.labels)
        self.source = source
        self.spec = spec
        self.tensor = None if array is None else torch.from_numpy(array)
        self.pool = None if array is not None else ThreadPoolExecutor(cores())
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.labels)

    def move(self, device: torch.device) -> None:
        """From now on batches come on this device, where the whole set stays if it is in memory and fits."""
        self.device, self.labels = device, self.labels.to(device)
        if self.tensor is not None and fits(self.tensor.nbytes, device):
            self.tensor = self.tensor.to(device)

    def take(self, rows: Tensor) -> Tensor:
        if self.tensor is not None:
            return move(self.tensor[move(rows, self.tensor.device)], self.device)
        assert self.pool is not None
        try:
            pixels = np.stack(list(self.pool.map(lambda i: self.source.pixels(i, self.spec), rows.tolist())))
        except TrainingError as exc:
            raise TrainingError(f"{exc}; {CURE}") from None
        return move(torch.from_numpy(pixels), self.device)

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) for each tensor of rows; the next batch is prepared while the caller uses this one."""
        if not order:
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.take, order[0])
            for rows, following in zip(order, [*order[1:], None], strict=True):
                images = coming.result()
                if following is not None:
                    coming = ahead.submit(self.take, following)
                yield images, self.labels[move(rows, self.device)]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def free_bytes() -> int:
    """Memory that can still be had: of the machine, and of the container (cgroup v2) where that has a limit of its own."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    free = int(available.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no container, or its limit reads "max"
        limit = int((group / "memory.max").read_text())
        files = next(line for line in (group / "memory.stat").read_text().splitlines() if line.startswith("inactive_file"))
        return min(free, limit - int((group / "memory.current").read_text()) + int(files.split()[1]))
    return free


def load(source: Source, spec: InputSpec, what: str, skip_unreadable: bool = False, fraction: float = 0.5) -> Pictures:
    """Decodes a source, into memory if it takes at most `fraction` of what is free to this process, else on demand.

    Unreadable pictures are left out and counted with `skip_unreadable`. Without it they are counted and the first ones named in
    one TrainingError; on demand the first that is met stops.
    """
    needed = len(source) * spec.crop * spec.crop * 3
    fits = needed * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= fraction * free_bytes()
    if not fits and not skip_unreadable:
        return Pictures(source, spec, None)
    array = np.empty((len(source), spec.crop, spec.crop, 3), np.uint8) if fits else None
    unreadable: dict[int, str] = {}

    def fill(row: int) -> None:
        try:
            pixels = source.pixels(row, spec)
        except TrainingError as exc:
            # Not the exception, whose traceback holds the picture.
            unreadable[row] = str(exc)
        else:
            if array is not None:
                array[row] = pixels

    with ThreadPoolExecutor(cores()) as pool:
        try:
            for _ in tqdm(pool.map(fill, range(len(source))), f"read {what}", len(source), leave=False, disable=None):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a stop must not wait for all that is still queued
            raise
    if not unreadable:
        return Pictures(source, spec, array)
    if not skip_unreadable:
        named = "; ".join(unreadable[row] for row in sorted(unreadable)[:NAMED]) + ("; ..." if len(unreadable) > NAMED else "")
        raise TrainingError(f"{what}: {len(unreadable)} of {len(source)} cannot be read ({CURE}): {named}")
    print(f"{what}: {len(unreadable)} of {len(source)} pictures could not be read and are left out")
    kept = np.setdiff1d(np.arange(len(source)), list(unreadable))
    if len(kept) == 0:
        raise TrainingError(f"{what}: not one of {len(source)} pictures can be read")
    return Pictures(source.subset(kept), spec, None if array is None else array[kept])


def channel_statistics(pictures: Pictures) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in [0, 1], over at most 50,000 training pictures."""
    chosen = torch.linspace(0, len(pictures) - 1, min(len(pictures), 50_000)).long()
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for images, _ in pictures.batches(chosen.split(64)):
        pixels = images.view(-1, 3).double() / 255
        total += pixels.sum(dim=0)
        squares += (pixels**2).sum(dim=0)
        count += len(pixels)
    mean = total / count
    std = (squares / count - mean**2).clamp_min(1e-6).sqrt()
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in std.tolist()]
