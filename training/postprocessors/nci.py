"""Neural collapse inspired score. Liu and Qin, Detecting OOD through the Lens of Neural Collapse, CVPR 2025, arXiv 2311.01479."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import mean


class Nci(Postprocessor):
    """-w z' / ||z'|| - alpha ||z||_1: w the predicted class's row of the head, z' the feature less the training mean."""

    key = "nci"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"alpha": (1e-4, 1e-3, 1e-2, 1e-1)}
    weight: Tensor
    mean: Tensor

    def __init__(self, alpha: float = 1e-4) -> None:
        super().__init__()
        self.alpha = alpha

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("mean", mean(train.features).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        centred = features - self.mean
        towards = (centred * self.weight.index_select(0, logits.argmax(dim=1))).sum(dim=1)
        return -towards / centred.norm(dim=1).clamp_min(1e-12) - self.alpha * features.abs().sum(dim=1)
