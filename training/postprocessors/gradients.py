"""Scores that need the gradient with respect to the picture: they are evaluated, never exported.

An exported graph runs forward only. These run the network twice and once backward, about four times its cost.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from training.networks import Classifier


class GradientScore:
    """Pictures (N, H, W, 3) to one score each (N,), higher = stranger. `key` and `sweep` as in `Postprocessor`; nothing is fitted.

    In float64: at a temperature of 1000 the softmax is so nearly uniform that float32 would make ties.
    """

    key: ClassVar[str]
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def __call__(self, network: "Classifier", images: Tensor) -> Tensor:
        raise NotImplementedError


class Odin(GradientScore):
    """-max softmax(f / T) of a picture that was moved towards its predicted class. Liang et al., ICLR 2018, arXiv 1706.02690.

    Every pixel value moves by `noise` (of 1) against the sign of the gradient of the cross-entropy at temperature T.
    """

    key = "odin"
    sweep: ClassVar[Mapping[str, tuple[float, ...]]] = {"temperature": (1.0, 10.0, 100.0, 1000.0), "noise": (0.0014, 0.0028)}

    def __init__(self, temperature: float = 1000.0, noise: float = 0.0014) -> None:
        self.temperature = temperature
        self.noise = noise

    def __call__(self, network: "Classifier", images: Tensor) -> Tensor:
        with torch.inference_mode(mode=False), torch.enable_grad():
            pixels = images.detach().float().requires_grad_()
            logits = network(pixels)[1]
            # A sum, not the mean: no picture's gradient depends on how many others there are.
            loss = functional.cross_entropy(logits / self.temperature, logits.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
        with torch.no_grad():
            moved = pixels - 255 * self.noise * self.direction(network, gradient)
            return -(network(moved)[1].double() / self.temperature).softmax(dim=1).amax(dim=1)

    def direction(self, network: "Classifier", gradient: Tensor) -> Tensor:
        """Where each pixel value is moved from, -1, 0 or 1: (N, H, W, 3)."""
        return gradient.sign()


class Iodin(Odin):
    """ODIN that moves only the one value with the largest gradient, as the network sees it: normalised. In OpenOOD v1.5."""

    key = "iodin"

    def direction(self, network: "Classifier", gradient: Tensor) -> Tensor:
        size = (gradient * network.std.view(3)).abs().flatten(1)
        chosen = torch.zeros_like(size).scatter(1, size.argmax(dim=1, keepdim=True), 1.0)
        return gradient.sign() * chosen.view_as(gradient)
