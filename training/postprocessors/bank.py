"""A few training images that stand for all: the bank that neighbours are looked up in, small enough to be shipped."""

import torch
from torch import Tensor


def balanced_rows(labels: Tensor, size: int) -> Tensor:
    """About `size` rows of labels (N,), the same number of each class as far as it has them, drawn by a fixed seed.

    Class after class, in the order of their labels.
    """
    counts = labels.unique(return_counts=True)[1]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = order[labels[order].argsort(stable=True)]
    place = torch.arange(len(labels)) - (counts.cumsum(dim=0) - counts).repeat_interleave(counts)
    return by_class[place < max(1, size // len(counts))]


def unit_length(features: Tensor) -> Tensor:
    """Rows (N, D) divided by their norms; a row of zeros stays one."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
