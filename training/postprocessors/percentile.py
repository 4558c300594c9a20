"""Percentiles of many values without sorting or copying them. torch.quantile refuses more than 16 million."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 20


def percentile(values: Tensor, percent: float) -> Tensor:
    """As numpy.percentile of all these float32 values, whatever their shape: a scalar in float64."""
    position = percent / 100 * (values.numel() - 1)
    low = int(position)
    high = min(low + 1, values.numel() - 1)
    return torch.lerp(ranked(values, low), ranked(values, high), position - low)


def ranked(values: Tensor, rank: int) -> Tensor:
    """The value that `rank` others precede in order. Its upper 16 bits are found by counting, then its lower ones."""
    upper, before = bin_of_rank(((keys >> 16) + 0x8000 for keys in keys_of(values)), rank)
    lower, _ = bin_of_rank((keys[(keys >> 16) + 0x8000 == upper] & 0xFFFF for keys in keys_of(values)), rank - before)
    key = torch.tensor((upper - 0x8000 << 16) + lower, dtype=torch.int32)
    return ordered(key).view(torch.float32).double()


def keys_of(values: Tensor) -> Iterator[Tensor]:
    return (ordered(part.view(torch.int32)) for part in values.reshape(-1).split(CHUNK))


def ordered(bits: Tensor) -> Tensor:
    """float32's bits as int32 that are ordered as the floats are, and back: of negative ones all but the sign is turned round."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def bin_of_rank(parts: Iterator[Tensor], rank: int) -> tuple[int, int]:
    """Which of 65,536 bins holds the value of this rank, and how many values lie in the bins before it."""
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for part in parts:
        counts += part.bincount(minlength=1 << 16)
    until = counts.cumsum(dim=0)
    found = int(torch.searchsorted(until, rank, right=True))
    return found, int(until[found] - counts[found])
