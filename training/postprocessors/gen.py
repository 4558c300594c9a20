"""Generalised entropy. Liu et al., GEN: Pushing the Limits of Softmax-Based OOD Detection, CVPR 2023."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor


class Gen(Postprocessor):
    """Sum over all classes of p^gamma (1 - p)^gamma, p = softmax(f).

    Over all classes (M = C), not the 100 largest as in the paper: on the nearly uniform softmax of an ELogitNorm network
    a sum over fewer classes grows as the prediction sharpens, and the score turns round.
    """

    key = "gen"
    others: Tensor

    def __init__(self, gamma: float = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("others", all_but_self(head.out_features))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(dim=1)
        # 1 - p of a sure prediction rounds to a few bits, which so small a power blows up; the sum of the others does not.
        return (probabilities * (probabilities @ self.others)).pow(self.gamma).sum(dim=1)


def all_but_self(classes: int) -> Tensor:
    """(C, C) such that probabilities (N, C) times it are the sums of all other probabilities: 1 - p, but not rounded."""
    return 1 - torch.eye(classes)
