"""Maximum softmax probability after temperature scaling. Guo et al., ICML 2017, arXiv 1706.04599; as a score in OpenOOD."""

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.temperature import fit_temperature


class Tempscale(Postprocessor):
    """-max softmax(f / T), T calibrated on validation pictures."""

    key = "tempscale"
    temperature: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.register_buffer("temperature", fit_temperature(validation.logits, validation.labels))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -(logits / self.temperature).softmax(dim=1).amax(dim=1)
