"""The distance to the decision boundaries by itself. Ding et al., Extended Logit Normalization, CVPR 2026, arXiv 2504.11434."""

from torch import Tensor, nn

from training.boundary import boundary_distance, weight_distances
from training.postprocessors.base import Outputs, Postprocessor


class Boundary(Postprocessor):
    """-D(z): what ELogitNorm scales by, and fDBD before it is divided. It grows with the feature's norm."""

    key = "boundary"
    distances: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("distances", weight_distances(head.weight.detach()))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -boundary_distance(logits, self.distances)
