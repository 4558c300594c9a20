"""Neural relation graph. Kim et al., Neural Relation Graph, NeurIPS 2023, arXiv 2301.12321."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.bank import balanced_rows, unit_length
from training.postprocessors.base import Outputs, Postprocessor


class Relation(Postprocessor):
    """-sum of r^power over the training images of the bank whose r is above the threshold.

    r = max(0, cos(z, z_i)) p p_i: how alike two images are in their features and their softmax. Where the softmax is nearly
    uniform over more classes than 1 / threshold, as an ELogitNorm network's may be, no relation is above it.
    """

    key = "relation"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"power": (1.0, 2.0, 4.0, 6.0, 8.0)}
    rows: Tensor
    probabilities: Tensor

    def __init__(self, power: float = 1.0, threshold: float = 0.03, bank: int = 500) -> None:
        super().__init__()
        self.power = power
        self.threshold = threshold
        self.bank = bank

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        chosen = balanced_rows(train.labels, self.bank)
        self.register_buffer("rows", unit_length(train.features[chosen]).T.contiguous())
        self.register_buffer("probabilities", train.logits[chosen].softmax(dim=1).T.contiguous())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        relations = (unit_length(features) @ self.rows).relu() * (logits.softmax(dim=1) @ self.probabilities)
        return -(relations * (relations > self.threshold)).pow(self.power).sum(dim=1)
