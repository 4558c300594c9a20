"""KL matching. Hendrycks et al., Scaling Out-of-Distribution Detection, ICML 2022, arXiv 1911.11132."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor


class Klm(Postprocessor):
    """min over classes of KL(p || p_c): p = softmax(f), p_c the mean of it over validation pictures that are taken for c.

    A class that no validation picture is taken for has no p_c and is left out.
    """

    key = "klm"
    log_typical: Tensor

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        probabilities = validation.logits.double().softmax(dim=1)
        predicted = validation.logits.argmax(dim=1)
        typical = torch.stack([probabilities[predicted == label].mean(dim=0) for label in predicted.unique()])
        self.register_buffer("log_typical", typical.clamp_min(torch.finfo(torch.float32).tiny).log().float().T.contiguous())

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        log_probabilities = logits.log_softmax(dim=1)
        probabilities = log_probabilities.exp()
        return (probabilities * log_probabilities).sum(dim=1) - (probabilities @ self.log_typical).amax(dim=1)
