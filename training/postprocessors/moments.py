"""Means and covariances of features, a chunk at a time in float64: 100,000 x 2048 features never have a second copy."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 512


class ClassMeans(NamedTuple):
    """The K classes that occur: how often (K,), their means (K, D) in float64, and which of them each row is of (N,)."""

    counts: Tensor
    means: Tensor
    rows: Tensor

    @property
    def overall(self) -> Tensor:
        """The mean of all features, (D,)."""
        return self.counts.double() @ self.means / self.counts.sum()


def chunks(features: Tensor) -> Iterator[Tensor]:
    """The rows in float64, a few at a time."""
    return (part.double() for part in features.split(CHUNK))


def mean(features: Tensor) -> Tensor:
    """(N, D) -> (D,), in float64."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for part in chunks(features):
        total += part.sum(dim=0)
    return total / len(features)


def class_means(features: Tensor, labels: Tensor) -> ClassMeans:
    classes, rows, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64)
    for part, where in zip(chunks(features), rows.split(CHUNK), strict=True):
        sums.index_add_(0, where, part)
    return ClassMeans(counts, sums / counts[:, None], rows)


def covariance(features: Tensor, centre: Tensor) -> Tensor:
    """Mean outer product of features (N, D) about a centre (D,), in float64."""
    found = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for part in chunks(features):
        centred = part - centre
        found.addmm_(centred.T, centred)
    return found / len(features)


def within_classes(features: Tensor, classes: ClassMeans) -> Tensor:
    """Mean outer product of features about the means of their classes, (D, D): what is shared by all classes."""
    found = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for part, where in zip(chunks(features), classes.rows.split(CHUNK), strict=True):
        centred = part - classes.means[where]
        found.addmm_(centred.T, centred)
    return found / len(features)


def between_classes(classes: ClassMeans) -> Tensor:
    """Mean outer product of the classes' own means, (D, D): with `within_classes` it adds up to the covariance of all."""
    centred = classes.means - classes.overall
    return (classes.counts[:, None] * centred).T @ centred / classes.counts.sum()
