"""Fast decision boundary distance. Liu and Qin, Fast Decision Boundary based OOD Detector, ICML 2024, arXiv 2312.11536."""

from torch import Tensor, nn

from training.boundary import boundary_distance, weight_distances
from training.postprocessors.base import Outputs, Postprocessor


class Fdbd(Postprocessor):
    """-D(z) / ||z - mean of the training features||. The published score sums over classes where D(z) averages: a factor C."""

    key = "fdbd"
    distances: Tensor
    mean: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("distances", weight_distances(head.weight.detach()))
        self.register_buffer("mean", train.features.double().mean(dim=0).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -(boundary_distance(logits, self.distances) / (features - self.mean).norm(dim=1).clamp_min(1e-12))
