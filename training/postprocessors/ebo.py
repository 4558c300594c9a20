"""Energy-based score. Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, arXiv 2010.03759."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from training.postprocessors.base import Postprocessor


class Ebo(Postprocessor):
    """The free energy -T logsumexp(f / T)."""

    key = "ebo"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"temperature": (1.0,)}

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -self.temperature * (logits / self.temperature).logsumexp(dim=1)
