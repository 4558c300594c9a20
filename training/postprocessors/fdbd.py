"""Fast decision boundary distance. Liu and Qin, Fast Decision Boundary based OOD Detector, ICML 2024, arXiv 2312.11536."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.boundary import boundary_distance, weight_distances
from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import mean


class Fdbd(Postprocessor):
    """-D(z) / ||z - centre times the mean training feature||: by default the distance to the mean; with centre 0 the norm of z.

    The published score sums over classes where D(z) averages: a factor C.
    """

    key = "fdbd"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"centre": (1.0, 0.0)}
    distances: Tensor
    mean: Tensor

    def __init__(self, centre: float = 1.0) -> None:
        super().__init__()
        self.centre = centre

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("distances", weight_distances(head.weight.detach()))
        self.register_buffer("mean", (self.centre * mean(train.features)).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -boundary_distance(logits, self.distances) / (features - self.mean).norm(dim=1).clamp_min(1e-12)
