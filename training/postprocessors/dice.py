"""Directed sparsification. Sun and Li, DICE, ECCV 2022, arXiv 2111.09805."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import mean
from training.postprocessors.percentile import percentile


class Dice(Postprocessor):
    """Energy of the head with only those weights that contribute above the percentile: weight times mean training feature."""

    key = "dice"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"percentile": (90.0,)}
    weight: Tensor
    bias: Tensor

    def __init__(self, percentile: float = 90.0) -> None:
        super().__init__()
        self.percentile = percentile

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        weight = head.weight.detach()
        contributions = mean(train.features).float() * weight
        sparse = weight * (contributions > percentile(contributions, self.percentile))
        self.register_buffer("weight", sparse.T.contiguous())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -(features @ self.weight + self.bias).logsumexp(dim=1)
