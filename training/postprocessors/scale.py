"""Activation scaling. Xu et al., Scaling for Training Time and Post-hoc OOD Detection Enhancement, ICLR 2024, arXiv 2310.00227."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor


class Scale(Postprocessor):
    """Energy of the head on features scaled by exp(r), r = sum of all / sum of those above the percentile.

    Only the features' own order decides what is above, so the score does not change with their scale but for the bias.
    """

    key = "scale"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"percentile": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    bias: Tensor

    def __init__(self, percentile: float = 85.0) -> None:
        super().__init__()
        self.percentile = percentile

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        width = features.shape[1]
        kept = max(1, width - round(width * self.percentile / 100))
        largest = features.topk(kept, dim=1).values.sum(dim=1, keepdim=True)
        ratio = features.sum(dim=1, keepdim=True) / largest.clamp_min(1e-12)
        # W (z e^r) + b, without a second pass through the head.
        return -((logits - self.bias) * ratio.exp() + self.bias).logsumexp(dim=1)
