"""Neural collapse based score. Ben Ammar et al., NECO, ICLR 2024, arXiv 2310.06823."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.moments import covariance, mean


class Neco(Postprocessor):
    """-||P z|| / ||z||, z standardised by the training features, P their `dim` principal components.

    dim None: 100, or half of the features where that is less. The paper multiplies by the largest logit for transformers.
    """

    key = "neco"
    mean: Tensor
    components: Tensor
    deviation: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        width = train.features.shape[1]
        dim = min(100, width // 2) if self.dim is None else self.dim
        if dim >= width:
            raise ValueError(f"neco keeps dim = {dim} components of {width} features, which is all of them: dim must be less")
        centre = mean(train.features)
        spread = covariance(train.features, centre)
        deviation = spread.diagonal().sqrt()
        # A feature that never varies is left as it is, as scikit-learn's scaler does.
        deviation = torch.where(deviation > 0, deviation, 1.0)
        correlation = spread.div_(deviation).div_(deviation[:, None])
        components = torch.linalg.eigh(correlation).eigenvectors[:, -dim:]
        self.register_buffer("mean", centre.float())
        self.register_buffer("deviation", deviation.float())
        self.register_buffer("components", components.float())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        standard = (features - self.mean) / self.deviation
        return -(standard @ self.components).norm(dim=1) / standard.norm(dim=1).clamp_min(1e-12)
