"""Rectified activations. Sun et al., ReAct, NeurIPS 2021, arXiv 2111.12797."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.percentile import percentile


class React(Postprocessor):
    """Energy of the head on features clipped at a percentile of all validation activations."""

    key = "react"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"percentile": (85.0, 90.0, 95.0, 99.0)}
    threshold: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, percentile: float = 90.0) -> None:
        super().__init__()
        self.percentile = percentile

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("threshold", percentile(validation.features, self.percentile).float())
        self.register_buffer("weight", head.weight.detach().T.clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -(features.minimum(self.threshold) @ self.weight + self.bias).logsumexp(dim=1)
