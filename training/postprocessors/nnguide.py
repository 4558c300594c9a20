"""Nearest neighbour guidance. Park et al., ICCV 2023, arXiv 2309.14888."""

from torch import Tensor, nn

from training.postprocessors.bank import balanced_rows, unit_length
from training.postprocessors.base import Outputs, Postprocessor


class Nnguide(Postprocessor):
    """-logsumexp(f) times the mean of the k largest products of the unit-length feature with the bank's, each weighted by its own.

    The defaults are the paper's for CIFAR: one in a hundred of 50,000 training images, and the 100 nearest of them; of a bank
    that has fewer than k, all.
    """

    key = "nnguide"
    rows: Tensor

    def __init__(self, k: int = 100, bank: int = 500) -> None:
        super().__init__()
        self.k = k
        self.bank = bank

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        chosen = balanced_rows(train.labels, self.bank)
        energies = train.logits[chosen].logsumexp(dim=1, keepdim=True)
        self.register_buffer("rows", (unit_length(train.features[chosen]) * energies).T.contiguous())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        guidance = (unit_length(features) @ self.rows).topk(min(self.k, self.rows.shape[1]), dim=1).values.mean(dim=1)
        return -guidance * logits.logsumexp(dim=1)
