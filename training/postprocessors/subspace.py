"""The directions in which ID features vary most, and those in which they hardly do."""

import torch
from torch import Tensor, nn

from training.postprocessors.moments import covariance


def origin(head: nn.Linear) -> Tensor:
    """The feature (D,) at which the head gives logits of zero, as nearly as it can: -pinv(W) b, in float64."""
    return -torch.linalg.pinv(head.weight.detach().double()) @ head.bias.detach().double()


def null_space(key: str, features: Tensor, centre: Tensor, dim: int | None) -> Tensor:
    """The eigenvectors (D, D - dim) of the second moment about a centre that are left when the `dim` largest are taken off.

    dim None: half of D. ValueError if nothing would be left.
    """
    width = features.shape[1]
    dim = width // 2 if dim is None else dim
    if dim >= width:
        raise ValueError(f"{key} takes the dim = {dim} largest directions off {width} features, which leaves none: dim must be less")
    vectors = torch.linalg.eigh(covariance(features, centre)).eigenvectors
    return vectors[:, : width - dim]
