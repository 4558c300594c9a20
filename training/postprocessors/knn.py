"""Distance to the k-th nearest neighbour. Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, arXiv 2204.06507."""

import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor

# onnxruntime splits a product of more multiplications over threads, which costs a lone request more than the product itself.
ONE_THREAD = 65_536


class Knn(Postprocessor):
    """Squared distance of the unit-length feature to its k-th nearest in a bank, in [0, 4].

    The bank is reduced to be shipped: not training features themselves, but `bank` prototypes of them, the same number of
    each class, found by k-means. The nearest of 170 separates better than the fifth of 500 features drawn at random, and
    those better than the nearest of 5,000. By default as many as one thread multiplies, but at least four of each class.
    """

    key = "knn"
    rows: Tensor

    def __init__(self, k: int = 1, bank: int | None = None) -> None:
        super().__init__()
        self.k = k
        self.bank = bank

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        classes = train.labels.unique()
        each = max(1, self.bank // len(classes)) if self.bank else max(4, ONE_THREAD // train.features.shape[1] // len(classes))
        unit = unit_length(train.features)
        rows = torch.cat([prototypes(unit[train.labels == label], each) for label in classes])
        if len(rows) < self.k:
            raise ValueError(f"knn needs at least k = {self.k} prototypes, the bank has {len(rows)}")
        self.register_buffer("rows", rows.T.contiguous())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        similarity = unit_length(features) @ self.rows
        return 2 - 2 * similarity.topk(self.k, dim=1).values[:, -1]


def prototypes(unit: Tensor, count: int) -> Tensor:
    """At most `count` unit-length centres of unit-length rows (N, D), by k-means from a fixed seed."""
    if len(unit) <= count:
        return unit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than centres: some centres are the same
        centres = KMeans(count, n_init=1, random_state=0).fit(unit.double().numpy()).cluster_centers_
    return unit_length(torch.from_numpy(centres).float())


def unit_length(features: Tensor) -> Tensor:
    """Rows (N, D) divided by their norms; a row of zeros stays one."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
