"""MSP and KNN together, through their p-values (Fisher's method). The two fail on different sets: near, and textures."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.gen import all_but_self
from training.postprocessors.knn import Knn
from training.postprocessors.moments import CHUNK

KNOTS = 32


class Surprise(nn.Module):
    """-log p-value of a score, as a continuous, increasing, piecewise linear function of it.

    Between the quantiles of the validation scores it interpolates; beyond the largest it goes on with the slope of an
    exponential tail, where the plain p-value could not tell one strange image from a stranger one.
    """

    knots: Tensor
    slopes: Tensor

    def fit(self, scores: Tensor) -> None:
        ordered = scores.double().sort().values
        share = 1 - torch.logspace(0, -2, KNOTS, dtype=torch.float64)
        knots = ordered[(share * (len(ordered) - 1)).round().long()].unique()
        # Between knots that all but coincide the slope would magnify float32's rounding.
        knots = knots[torch.cat([torch.ones(1, dtype=torch.bool), knots.diff() > 1e-5 * (knots[-1] - knots[0])])]
        at_least = len(ordered) - torch.searchsorted(ordered, knots)
        surprise = -((1 + at_least).double() / (len(ordered) + 1)).log()
        if len(knots) < 2:
            raise ValueError("the scores of the validation pictures are all the same; nothing can be combined")
        between = surprise.diff() / knots.diff()
        excess = (ordered[ordered > knots[-1]] - knots[-1]).mean() if (ordered > knots[-1]).any() else 1 / between[-1]
        slopes = torch.cat([between, (1 / excess)[None]])
        self.register_buffer("knots", knots.float())
        # A piecewise linear function as a sum of hinges: each adds the change of slope at its knot.
        self.register_buffer("slopes", slopes.diff(prepend=slopes.new_zeros(1)).float())

    def forward(self, scores: Tensor) -> Tensor:
        return (scores[:, None] - self.knots).relu() @ self.slopes


class MspKnn(Postprocessor):
    """-log p(msp) - log p(knn). p-values on validation pictures; the sum is calibrated anew like any other score."""

    key = "msp_knn"
    others: Tensor

    def __init__(self, k: int = 1, bank: int | None = None) -> None:
        super().__init__()
        self.knn = Knn(k, bank)
        self.msp_surprise, self.knn_surprise = Surprise(), Surprise()

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        self.knn.fit(train, validation, head)
        self.register_buffer("others", all_but_self(head.out_features))
        parts = list(zip(validation.features.split(CHUNK), validation.logits.split(CHUNK), strict=True))
        self.msp_surprise.fit(torch.cat([self.log_odds(logits) for _, logits in parts]))
        self.knn_surprise.fit(torch.cat([self.knn(features, logits) for features, logits in parts]))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return self.msp_surprise(self.log_odds(logits)) + self.knn_surprise(self.knn(features, logits))

    def log_odds(self, logits: Tensor) -> Tensor:
        """log((1 - p) / p) of the largest probability p: orders as MSP does, where 1 - p itself would round to zero."""
        probabilities = logits.softmax(dim=1)
        odds = (probabilities @ self.others).amin(dim=1) / probabilities.amax(dim=1)
        return odds.clamp_min(torch.finfo(torch.float32).tiny).log()
