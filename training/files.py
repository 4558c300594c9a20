"""Files that are written whole or not at all: beside their place, and then moved into it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from training.config import TrainingError


def write_text(path: Path, text: str) -> None:
    """TrainingError when the disk is full or the place cannot be written; the old file stays."""
    write(path, lambda file: file.write(text.encode()))


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """TrainingError when the disk is full or the place cannot be written; the old file stays. A pipe or a device is written to as it is."""
    ordinary = path.is_file() or not path.exists()
    path = path.resolve() if ordinary else path
    partial = path.with_suffix(".partial") if ordinary else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            if ordinary:
                os.fsync(file.fileno())
        if ordinary:
            partial.replace(path)
    except (OSError, RuntimeError) as exc:  # torch reports a full disk as RuntimeError
        if ordinary:
            with contextlib.suppress(OSError):
                partial.unlink()
        raise TrainingError(f"{path} cannot be written: {exc}") from None
