"""The temperature that calibrates a softmax. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599."""

import torch
from torch import Tensor
from torch.nn import functional


def fit_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """The T that minimises the cross-entropy of softmax(logits / T): a scalar, float32. logits (N, C), labels (N,)."""
    scaled = logits.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(scaled / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.detach().exp().float()
