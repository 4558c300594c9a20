"""RegMixup: every batch is trained on as it is, and once more mixed with itself.

Pinto et al., RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out Distribution Robustness, NeurIPS 2022,
arXiv 2206.14502. Alpha far above one (20 for CIFAR-10, 10 for CIFAR-100 and ImageNet) mixes pictures about half and half.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from training.losses import Loss


@dataclass(frozen=True)
class Batch:
    """What a step trains on: pictures (M, H, W, 3), of which `share` is of the class `first` and the rest of `second`, both (M,).

    The first `plain` pictures are of one class, as the data has them.
    """

    images: Tensor
    first: Tensor
    second: Tensor
    share: float
    plain: int

    def loss(self, loss: Loss, logits: Tensor, head: nn.Linear) -> Tensor:
        """The mean over all pictures: with RegMixup half the paper's sum of two means, as in its authors' code."""
        cost = loss(logits, head, self.first)
        return cost if self.share == 1 else self.share * cost + (1 - self.share) * loss(logits, head, self.second)

    def accuracy(self, logits: Tensor) -> Tensor:
        """Share of plain pictures classified rightly."""
        return (logits[: self.plain].detach().argmax(dim=1) == self.first[: self.plain]).float().mean()


def make_batch(images: Tensor, labels: Tensor, alpha: float, generator: Generator) -> Batch:
    """Pictures uint8 (N, H, W, 3) and labels (N,); with alpha above 0 twice as many, the second half mixed by Beta(alpha, alpha)."""
    if alpha == 0:
        return Batch(images, labels, labels, 1.0, len(labels))
    # torch's own Beta takes no generator, and a run must resume to the same numbers.
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(labels), generator=generator).to(images.device)
    plain = images.float()
    mixed = share * plain + (1 - share) * plain[other]
    return Batch(torch.cat([plain, mixed]), torch.cat([labels, labels]), torch.cat([labels, labels[other]]), share, len(labels))
