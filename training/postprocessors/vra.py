"""Variational rectified activations. Xu et al., VRA, NeurIPS 2023, arXiv 2302.11716."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.percentile import percentile


class Vra(Postprocessor):
    """Energy of the head on features clipped from both sides, at two percentiles of all validation activations."""

    key = "vra"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"high": (85.0, 90.0, 95.0, 99.0), "low": (1.0, 5.0, 10.0, 15.0)}
    lower: Tensor
    upper: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, high: float = 90.0, low: float = 10.0) -> None:
        super().__init__()
        self.high = high
        self.low = low

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("lower", percentile(validation.features, self.low).float())
        self.register_buffer("upper", percentile(validation.features, self.high).float())
        self.register_buffer("weight", head.weight.detach().T.clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        clipped = features.maximum(self.lower).minimum(self.upper)
        return -(clipped @ self.weight + self.bias).logsumexp(dim=1)
