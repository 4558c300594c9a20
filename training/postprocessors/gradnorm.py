"""Norm of the head's gradient. Huang et al., On the Importance of Gradients, NeurIPS 2021, arXiv 2110.00218."""

from torch import Tensor

from training.postprocessors.base import Postprocessor


class Gradnorm(Postprocessor):
    """-||z||_1 sum |C p_c - 1|, p = softmax(f).

    That is, in closed form, the sum of the absolute gradient by the head's weights of the cross-entropy between the uniform
    distribution and p: its entry for class c and feature d is (C p_c - 1) z_d. No gradient is computed, so it is exported.
    """

    key = "gradnorm"

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        uneven = (logits.shape[1] * logits.softmax(dim=1) - 1).abs().sum(dim=1)
        return -features.abs().sum(dim=1) * uneven
