"""Mahalanobis distance. Lee et al., A Simple Unified Framework for Detecting OOD, NeurIPS 2018, arXiv 1807.03888."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import class_means, within_classes


class Mds(Postprocessor):
    """min over classes of (z - mean_c) S^-1 (z - mean_c), S the covariance within classes, shared by all.

    Features are whitened once; then every class costs a dot product. Directions with less than 1e-9 of the largest variance
    do not count.
    """

    key = "mds"
    mean: Tensor
    whitening: Tensor
    means: Tensor
    squares: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        classes = class_means(train.features, train.labels)
        values, vectors = torch.linalg.eigh(within_classes(train.features, classes))
        kept = values > 1e-9 * values.max()
        whitening = vectors[:, kept] / values[kept].sqrt()
        means = (classes.means - classes.overall) @ whitening
        self.register_buffer("mean", classes.overall.float())
        self.register_buffer("whitening", whitening.float())
        self.register_buffer("means", (-2 * means.T).float())
        self.register_buffer("squares", means.square().sum(dim=1).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        white = (features - self.mean) @ self.whitening
        return white.square().sum(dim=1) + (white @ self.means + self.squares).amin(dim=1)
