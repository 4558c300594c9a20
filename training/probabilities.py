"""Which probabilities are shown: the softmax that is calibrated for the loss the network was trained with."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.boundary import scaled_logits, weight_distances
from training.config import LossName
from training.losses import LOGITNORM_TAU
from training.postprocessors import Outputs


class Probabilities(nn.Module):
    """softmax(scaled logits / T): f / D(z) for ELogitNorm, f / (tau ||f||) for LogitNorm, f for cross-entropy.

    A network trained on scaled logits is calibrated on those; softmax(f) of an ELogitNorm network is nearly uniform
    (ECE about 27 %, arXiv 2504.11434). The temperature T is fitted on validation pictures (Guo et al., arXiv 1706.04599).
    """

    distances: Tensor
    temperature: Tensor

    def __init__(self, loss: LossName) -> None:
        super().__init__()
        self.loss = loss

    def fit(self, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("distances", weight_distances(head.weight.detach()))
        scaled = self.scaled(validation.logits).double()
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(scaled / log_temperature.exp(), validation.labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        self.register_buffer("temperature", log_temperature.detach().exp().float())

    def scaled(self, logits: Tensor) -> Tensor:
        if self.loss == "elogitnorm":
            return scaled_logits(logits, self.distances)
        if self.loss == "logitnorm":
            return logits / (logits.norm(dim=1, keepdim=True) + 1e-7) / LOGITNORM_TAU
        return logits

    def forward(self, logits: Tensor) -> Tensor:
        return (self.scaled(logits) / self.temperature).softmax(dim=1)
