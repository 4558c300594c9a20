"""The TensorBoard log of a run."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.config import TrainingError


class Scalars:
    """TensorBoard's file of a run, made when the first values come."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.writer: SummaryWriter | None = None

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        try:
            self.writer = self.writer or SummaryWriter(self.run)
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()
        except OSError as exc:
            raise TrainingError(f"{self.run} cannot be written: {exc}") from None

    def close(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError):  # said by write already
                self.writer.close()
