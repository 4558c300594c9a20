"""Generalised entropy. Liu et al., GEN: Pushing the Limits of Softmax-Based OOD Detection, CVPR 2023."""

import torch
from torch import Tensor

from training.postprocessors.base import Postprocessor


class Gen(Postprocessor):
    """Sum over all classes of p^gamma (1 - p)^gamma, p = softmax(f).

    Over all classes (M = C), not the 100 largest as in the paper: on the nearly uniform softmax of an ELogitNorm network
    a sum over fewer classes grows as the prediction sharpens, and the score turns round.
    """

    key = "gen"

    def __init__(self, gamma: float = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        ordered = logits.topk(logits.shape[1], dim=1).values.softmax(dim=1)
        # 1 - p of a sure prediction rounds to a few bits, which so small a power blows up; the sum of the others does not.
        complement = torch.cat([ordered[:, 1:].sum(dim=1, keepdim=True), 1 - ordered[:, 1:]], dim=1)
        return (ordered * complement).pow(self.gamma).sum(dim=1)
