"""The temperature that calibrates a softmax. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599."""

import torch
from torch import Tensor

CHUNK = 512
LOG_RANGE, HALVINGS = 10.0, 48
FLAT = 1e-7


def fit_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """The T that minimises the cross-entropy of softmax(logits / T): a scalar, float32. logits (N, C), labels (N,).

    By halving an interval of log T: in 1 / T the loss is convex, so its slope changes sign once. Where nothing is classified
    wrongly it falls for ever towards T = 0; there the search stops where the slope is flat.
    """
    low, high = -LOG_RANGE, LOG_RANGE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(logits, labels, middle) > FLAT:
            high = middle
        else:
            low = middle
    return torch.tensor((low + high) / 2, dtype=torch.float64).exp().float()


def slope(logits: Tensor, labels: Tensor, log_temperature: float) -> float:
    """Of the mean cross-entropy by log T, in float64, a few rows at a time."""
    total = 0.0
    for part, where in zip(logits.split(CHUNK), labels.split(CHUNK), strict=True):
        scaled = part.double() / torch.tensor(log_temperature).double().exp()
        scaled -= scaled.amax(dim=1, keepdim=True)
        expected = (scaled.softmax(dim=1) * scaled).sum(dim=1)
        total += (scaled.gather(1, where[:, None])[:, 0] - expected).sum().item()
    return total / len(labels)
