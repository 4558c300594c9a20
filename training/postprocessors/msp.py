"""Maximum softmax probability. Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136."""

from torch import Tensor

from training.postprocessors.base import Postprocessor


class Msp(Postprocessor):
    """-max softmax(f): in [-1, -1/C]. On an ELogitNorm network close to -1/C, which is no fault: only the order counts."""

    key = "msp"

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return -logits.softmax(dim=1).amax(dim=1)
