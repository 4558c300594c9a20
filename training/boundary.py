"""The distance of a feature to the decision boundaries of a linear head.

One quantity with three uses: ELogitNorm's scale D(z), fDBD's numerator, and the temperature that calibrates the
probabilities of an ELogitNorm network.
"""

import torch
from torch import Tensor
from torch.nn import functional


def weight_distances(weight: Tensor) -> Tensor:
    """Pairwise Euclidean distances between the rows of a head, (C, D) -> (C, C), with ones on the diagonal.

    The ones stand where 0 / 0 would: the gap of a class to itself is zero whatever it is divided by. Uses the Gram
    matrix, so 1000 classes of 2048 features cost megabytes where a (C, C, D) difference would cost 8 GB. Always in
    float32 (float64 stays), also under autocast. Differentiable: two equal rows get gradient zero, not NaN.
    """
    with torch.autocast(weight.device.type, enabled=False):
        weight = weight if weight.dtype == torch.float64 else weight.float()
        # Distances do not change when all rows move together, and the smaller the rows the less the square cancels.
        centred = weight - weight.mean(dim=0)
        gram = centred @ centred.T
        norms = gram.diagonal()
        squares = norms[:, None] + norms[None, :] - 2 * gram
        identity = torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
        tiny = torch.finfo(weight.dtype).tiny
        return (squares * (1 - identity) + identity).clamp_min(tiny).sqrt()


def boundary_distance(logits: Tensor, distances: Tensor) -> Tensor:
    """D(z): mean distance of the feature to the boundaries between the predicted class and every class.

    logits (N, C) and `weight_distances` (C, C) -> (N,). The mean is over all C classes, the predicted one counting
    as zero, as in the authors' code; the paper's formula divides by C - 1, a constant factor.
    Source: Ding et al., Extended Logit Normalization, CVPR 2026, arXiv 2504.11434.
    """
    # An embedding is one node of the exported graph, where indexing takes two.
    to_predicted = functional.embedding(logits.argmax(dim=1), distances)
    return ((logits.amax(dim=1, keepdim=True) - logits) / to_predicted).mean(dim=1)


def scaled_logits(logits: Tensor, distances: Tensor) -> Tensor:
    """F / D(z), (N, C): what ELogitNorm trains on and what its probabilities are made of.

    Rows whose logits are all equal lie on every boundary (D = 0) and come back as zeros: the uniform distribution.
    """
    scale = boundary_distance(logits, distances)[:, None]
    # Softmax does not see a common shift; without it a row of equal logits would be c / 1, not 0 / 1.
    # The one is made on the device: a number of Python's would be copied there, and every step would wait for it.
    return (logits - logits.amax(dim=1, keepdim=True)) / torch.where(scale > 0, scale, scale.new_ones(()))
