"""Generalised entropy. Liu et al., GEN: Pushing the Limits of Softmax-Based OOD Detection, CVPR 2023."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor


class Gen(Postprocessor):
    """Sum over the `largest` probabilities of p^gamma (1 - p)^gamma, p = softmax(f); by default, or where C is less, over all.

    Over all classes (M = C), not the 100 largest as in the paper: on the nearly uniform softmax of an ELogitNorm network
    a sum over fewer classes grows as the prediction sharpens, and the score turns round.
    """

    key = "gen"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"gamma": (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0), "largest": (10, 50, 100, 200, 500, 1000)}
    others: Tensor

    def __init__(self, gamma: float = 0.1, largest: int | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.largest = largest

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("others", all_but_self(head.out_features))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        # Denormals, which some devices take for zero, are no zero to so small a power.
        probabilities = logits.softmax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        # 1 - p of a sure prediction rounds to a few bits, which so small a power blows up; the sum of the others does not.
        others = probabilities @ self.others
        if self.largest is not None and self.largest < logits.shape[1]:
            probabilities, chosen = probabilities.topk(self.largest, dim=1)
            others = others.gather(1, chosen)
        return (probabilities * others).pow(self.gamma).sum(dim=1)


def all_but_self(classes: int) -> Tensor:
    """(C, C) such that probabilities (N, C) times it are the sums of all other probabilities: 1 - p, but not rounded."""
    return 1 - torch.eye(classes)
