"""Distance to the k-th nearest neighbour. Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, arXiv 2204.06507."""

import warnings
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.postprocessors.bank import balanced_rows, unit_length
from training.postprocessors.base import Outputs, Postprocessor

# onnxruntime splits a product of more multiplications over threads, which costs a lone request more than the product itself.
ONE_THREAD = 65_536
SAMPLE = 5000


class Knn(Postprocessor):
    """1 - cosine similarity to the k-th nearest in a bank, in [0, 2]: half the squared distance of unit-length features.

    The bank is reduced to be shipped: not training features themselves, but `bank` prototypes of them, the same number of
    each class, found by k-means. The nearest of 170 separates better than the fifth of 500 features drawn at random, and
    those better than the nearest of 5,000. By default as many as one thread multiplies, but at least four of each class.
    OpenOOD tries the 50th to the 1000th of 50,000 features; among prototypes that is the first few.
    """

    key = "knn"
    sweep: ClassVar[Mapping[str, tuple[int, ...]]] = {"k": (1, 2, 5, 10)}
    rows: Tensor

    def __init__(self, k: int = 1, bank: int | None = None) -> None:
        super().__init__()
        self.k = k
        self.bank = bank

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        classes = train.labels.unique()
        each = max(1, self.bank // len(classes)) if self.bank else max(4, ONE_THREAD // train.features.shape[1] // len(classes))
        # As many of a class as k-means has use for; all of a large set would take its memory again.
        sample = balanced_rows(train.labels, SAMPLE * len(classes))
        rows = sample.split(train.labels[sample].unique(return_counts=True)[1].tolist())
        # Filled in place: small tensors kept between the large ones of each class would leave holes all over the heap.
        bank = torch.empty(sum(min(each, len(chosen)) for chosen in rows), train.features.shape[1])
        parts = bank.split([min(each, len(chosen)) for chosen in rows])
        for part, chosen in zip(parts, rows, strict=True):
            part.copy_(prototypes(unit_length(train.features[chosen]), each))
        if len(bank) < self.k:
            raise ValueError(f"knn needs at least k = {self.k} prototypes, the bank has {len(bank)}")
        self.register_buffer("rows", bank.T.contiguous())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        similarity = unit_length(features) @ self.rows
        # The same number as the first of topk, in half the nodes.
        return 1 - (similarity.amax(dim=1) if self.k == 1 else similarity.topk(self.k, dim=1).values[:, -1])


def prototypes(unit: Tensor, count: int) -> Tensor:
    """At most `count` unit-length centres of unit-length rows (N, D), by k-means from a fixed seed."""
    from sklearn.cluster import KMeans  # 90 MB that no other score needs
    from sklearn.exceptions import ConvergenceWarning

    if len(unit) <= count:
        return unit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than centres: some centres are the same
        centres = KMeans(count, n_init=1, random_state=0).fit(unit.numpy()).cluster_centers_
    return unit_length(torch.from_numpy(centres))
