"""Which probabilities are shown: the softmax that is calibrated for the loss the network was trained with."""

from torch import Tensor, nn

from training.boundary import scaled_logits, weight_distances
from training.config import LossName
from training.losses import LOGITNORM_TAU
from training.postprocessors import Outputs
from training.temperature import fit_temperature


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
        self.register_buffer("temperature", fit_temperature(self.scaled(validation.logits), validation.labels))

    def scaled(self, logits: Tensor) -> Tensor:
        if self.loss == "elogitnorm":
            return scaled_logits(logits, self.distances)
        if self.loss == "logitnorm":
            return logits / (logits.norm(dim=1, keepdim=True) + 1e-7) / LOGITNORM_TAU
        return logits

    def forward(self, logits: Tensor) -> Tensor:
        return (self.scaled(logits) / self.temperature).softmax(dim=1)
