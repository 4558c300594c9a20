"""Residual of the principal subspace. Wang et al., ViM, CVPR 2022, arXiv 2203.10807, which has it as a part and baseline."""

from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.subspace import null_space, origin


class Residual(Postprocessor):
    """Norm of what the feature has outside the `dim` directions in which validation features vary most about the head's origin.

    dim None: half of the features. OpenOOD fixes 512, which for ResNet-18's 512 features leaves nothing.
    """

    key = "residual"
    directions: Tensor
    shift: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        centre = origin(head)
        directions = null_space(self.key, validation.features, centre, self.dim)
        self.register_buffer("directions", directions.float())
        self.register_buffer("shift", (centre @ directions).float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return (features @ self.directions - self.shift).norm(dim=1)
