"""Activation shaping, the variant that binarises (ASH-B). Djurisic et al., ICLR 2023, arXiv 2209.09858."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor


class Ash(Postprocessor):
    """Energy of the head on features of which those above the percentile share the sum of all, and the others are zero.

    The percentile is that of the image's own features. A feature of zero is never among the largest: where more than half
    are zero the published rule would raise some of them, whichever the sort happens to give.
    """

    key = "ash"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"percentile": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    weight: Tensor
    bias: Tensor

    def __init__(self, percentile: float = 90.0) -> None:
        super().__init__()
        self.percentile = percentile

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("weight", head.weight.detach().T.clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        width = features.shape[1]
        kept = max(1, width - round(width * self.percentile / 100))
        smallest = features.topk(kept, dim=1).values[:, -1:]
        largest = ((features >= smallest) & (features > 0)).float()
        share = features.sum(dim=1, keepdim=True) / kept
        return -(largest @ self.weight * share + self.bias).logsumexp(dim=1)
