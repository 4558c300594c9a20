"""Training losses: what a batch of logits costs. Higher confidence is paid for in units that the loss chooses."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.boundary import scaled_logits, weight_distances

Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]
LOGITNORM_TAU = 0.04


def cross_entropy(logits: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, C) and labels (N,)."""
    return functional.cross_entropy(logits.float(), labels)


def logitnorm(logits: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Cross-entropy on f / (tau ||f||), tau 0.04. Wei et al., Logit Normalization, ICML 2022, arXiv 2205.09310."""
    logits = logits.float()
    norms = logits.norm(dim=1, keepdim=True) + 1e-7
    return functional.cross_entropy(logits / norms / LOGITNORM_TAU, labels)


def elogitnorm(logits: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Cross-entropy on f / D(z), D the mean distance to the decision boundaries of the predicted class.

    Nothing is detached: the gradient flows through the logits, the gaps and the distances between the head's rows.
    Ding et al., Extended Logit Normalization, CVPR 2026, arXiv 2504.11434.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return functional.cross_entropy(scaled_logits(logits.float(), weight_distances(head.weight)), labels)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "logitnorm": logitnorm, "elogitnorm": elogitnorm}
