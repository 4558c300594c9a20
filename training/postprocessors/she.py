"""Simplified Hopfield energy. Zhang et al., OOD Detection based on In-Distribution Data Patterns Memorization, ICLR 2023."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import CHUNK


class She(Postprocessor):
    """-z p: p the mean of the training features that are rightly taken for the predicted class; zeros if none is."""

    key = "she"
    patterns: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        right = train.logits.argmax(dim=1) == train.labels
        sums = torch.zeros(head.out_features, train.features.shape[1], dtype=torch.float64)
        for features, labels, chosen in zip(*(column.split(CHUNK) for column in (train.features, train.labels, right)), strict=True):
            sums.index_add_(0, labels[chosen], features[chosen].double())
        counts = train.labels[right].bincount(minlength=head.out_features).clamp_min(1)
        self.register_buffer("patterns", (sums / counts[:, None]).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -(features * self.patterns.index_select(0, logits.argmax(dim=1))).sum(dim=1)
