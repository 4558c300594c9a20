"""Energy of the logits that ELogitNorm trains on. Ding et al., Extended Logit Normalization, CVPR 2026, arXiv 2504.11434."""

import torch
from torch import Tensor, nn

from training.boundary import boundary_distance, weight_distances
from training.postprocessors.base import Outputs, Postprocessor


class EboScaled(Postprocessor):
    """logsumexp(f / D(z)): the negative energy, where `ebo` is the energy itself.

    The sign is turned because dividing by D(z) turns the order round. D(z) is a weighted mean of the gaps to the largest logit,
    so the largest logit over it hardly differs between images, and what is left, the sum over the other classes, is least
    where all gaps are alike: for ID. Unlike the energy of f, it does not grow with the feature's norm.
    """

    key = "ebo_scaled"
    distances: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("distances", weight_distances(head.weight.detach()))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        scale = boundary_distance(logits, self.distances)[:, None]
        return (logits / torch.where(scale > 0, scale, 1.0)).logsumexp(dim=1)
