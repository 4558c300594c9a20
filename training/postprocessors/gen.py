"""Generalised entropy. Liu et al., GEN: Pushing the Limits of Softmax-Based OOD Detection, CVPR 2023."""

from torch import Tensor

from training.postprocessors.base import Postprocessor


class Gen(Postprocessor):
    """Sum over all classes of p^gamma (1 - p)^gamma, p = softmax(f).

    Over all classes (M = C), not the 100 largest as in the paper: on the nearly uniform softmax of an ELogitNorm network
    a sum over fewer classes grows as the prediction sharpens, and the score turns round.
    """

    key = "gen"

    def __init__(self, gamma: float = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(dim=1)
        return (probabilities * (1 - probabilities)).pow(self.gamma).sum(dim=1)
