"""Maximum logit score. Hendrycks et al., Scaling Out-of-Distribution Detection, ICML 2022, arXiv 1911.11132."""

from torch import Tensor

from training.postprocessors.base import Postprocessor


class Mls(Postprocessor):
    """-max f."""

    key = "mls"

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -logits.amax(dim=1)
