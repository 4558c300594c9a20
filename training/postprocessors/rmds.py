"""Relative Mahalanobis distance. Ren et al., A Simple Fix to Mahalanobis Distance, 2021, arXiv 2106.09022."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import between_classes, class_means, within_classes


class Rmds(Postprocessor):
    """min over classes of MD_c(z) - MD_0(z): Mahalanobis to the class (shared covariance) less that to all of the data.

    The covariance of all is that within classes plus one of rank C - 1 between them, so the difference of their inverses
    has rank C - 1 (Woodbury): MD_c - MD_0 is a sum of C - 1 squares and a linear term. It is found in float64 when
    fitted; per image it costs two products of D x C, and nothing cancels in float32.
    """

    key = "rmds"
    mean: Tensor
    squares: Tensor
    signs: Tensor
    linear: Tensor
    constant: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        classes = class_means(train.features, train.labels)
        covariance = within_classes(train.features, classes)
        # In place, because each of these matrices is 34 MB for 2048 features, and finding eigenvectors takes four more.
        overall = precision(covariance + between_classes(classes))
        within = precision(covariance)
        del covariance
        values, vectors = torch.linalg.eigh(overall.neg_().add_(within))
        means = classes.means - classes.overall
        # More than C - 1, and some below zero, only where there are too few features for a covariance of full rank.
        kept = values.abs() > 1e-9 * values.abs().max()
        self.register_buffer("mean", classes.overall.float())
        self.register_buffer("squares", (vectors[:, kept] * values[kept].abs().sqrt()).float())
        self.register_buffer("signs", values[kept].sign().float())
        self.register_buffer("linear", (-2 * within @ means.T).float())
        self.register_buffer("constant", (means @ within * means).sum(dim=1).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        centred = features - self.mean
        shared = (centred @ self.squares).square() @ self.signs
        return shared + (centred @ self.linear + self.constant).amin(dim=1)


def precision(covariance: Tensor) -> Tensor:
    """The pseudo-inverse of a covariance: directions with less than 1e-9 of the largest variance do not count."""
    return torch.linalg.pinv(covariance, rtol=1e-9, hermitian=True)
