"""Virtual-logit matching. Wang et al., ViM, CVPR 2022, arXiv 2203.10807."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import chunks
from training.postprocessors.subspace import null_space, origin


class Vim(Postprocessor):
    """alpha ||residual|| - logsumexp(f): what the feature has outside the `dim` main directions, as one more logit.

    alpha makes the residual of training features as large as their largest logit, on average. dim None: half of the
    features, which is OpenOOD's 256 for ResNet-18.
    """

    key = "vim"
    sweep: ClassVar[Mapping[str, tuple[int, ...]]] = {"dim": (256, 1000)}
    directions: Tensor
    shift: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        centre = origin(head)
        directions = null_space(self.key, train.features, centre, self.dim)
        shift = centre @ directions
        residual = sum((part @ directions - shift).norm(dim=1).sum().item() for part in chunks(train.features))
        alpha = train.logits.amax(dim=1).double().sum() / residual
        self.register_buffer("directions", (alpha * directions).float())
        self.register_buffer("shift", (alpha * shift).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return (features @ self.directions - self.shift).norm(dim=1) - logits.logsumexp(dim=1)
