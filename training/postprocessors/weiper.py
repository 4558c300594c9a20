"""Weight perturbations of the class projections. Granz et al., WeiPer, NeurIPS 2024, arXiv 2405.17164: its WeiPer+KLD."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor

# Training pictures that its histograms are of, at most.
FITTED = 50_000
ROWS, VALUES = 512, 1 << 21
FLOOR, FLOOR_PERTURBED = 0.01, 0.025


class Histogram(nn.Module):
    """How unlike an image's values are to all training values: symmetric Kullback-Leibler divergence of their histograms.

    Each value is shared by the two nearest bins (linear binning), and values beyond the training ones count in the outermost:
    in the authors' bins a value on an edge would jump with the last bit of a matrix product.
    """

    low: Tensor
    scale: Tensor
    smooth: Tensor
    typical: Tensor

    def __init__(self, bins: int, smoothing: int, floor: float) -> None:
        super().__init__()
        self.bins = bins
        self.floor = floor
        # A moving average over `smoothing` bins, the outermost repeated: one matrix.
        before = (smoothing - 1) // 2
        padded = torch.arange(-before, bins + smoothing - 1 - before).clamp(0, bins - 1)
        smooth = torch.zeros(bins, bins)
        for i in range(bins):
            smooth[:, i] = padded[i : i + smoothing].bincount(minlength=bins) / smoothing
        self.register_buffer("smooth", smooth)

    def fit(self, parts: Callable[[], Iterable[Tensor]]) -> None:
        """Learns from values (N, V) that `parts` gives anew, in chunks, each time it is called: twice."""
        low, high = float("inf"), -float("inf")
        for part in parts():
            low, high = min(low, part.min().item()), max(high, part.max().item())
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("scale", torch.tensor(self.bins / max(high - low, 1e-12)))
        # Added up in place: many small tensors kept between the large ones of each chunk would leave holes all over the heap.
        typical = torch.zeros(self.bins, dtype=torch.float64)
        for part in parts():
            typical += self.shares(part).sum(dim=0)
        self.register_buffer("typical", self.floored((typical / typical.sum()).float()))

    def shares(self, values: Tensor) -> Tensor:
        """(N, V) -> the share of each bin, (N, bins)."""
        places = ((values - self.low) * self.scale - 0.5).clamp(0, self.bins - 1)
        left = places.floor().clamp_max(self.bins - 2)
        right_share = places - left
        empty = torch.zeros_like(values[:, :1]).repeat(1, self.bins)
        index = left.long()
        counts = empty.scatter_add(1, index, 1 - right_share).scatter_add(1, index + 1, right_share)
        return counts / values.shape[1]

    def floored(self, shares: Tensor) -> Tensor:
        shares = shares + self.floor
        return shares / shares.sum(dim=-1, keepdim=True)

    def forward(self, values: Tensor) -> Tensor:
        shares = self.floored(self.shares(values) @ self.smooth)
        return ((shares - self.typical) * (shares / self.typical).log()).sum(dim=1)


class Weiper(Postprocessor):
    """KL(features) + lambda_1 KL(perturbed logits) - lambda_2 MSP, each KL that of the image's histogram to the training one.

    Perturbed logits: those of `repeats` heads whose rows are moved by `distance` times their norm in random directions, drawn
    by a fixed seed; MSP is the mean over them. The defaults are the authors' for CIFAR-10. Costs `repeats` products of D x C per
    image and as many weights: 2 MB for CIFAR-10's ResNet-18, 800 MB for ImageNet's ResNet-50.
    """

    key = "weiper"
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        lambda_1: float = 2.5,
        lambda_2: float = 0.1,
        distance: float = 1.8,
        repeats: int = 100,
        bins: int = 100,
        smoothing: int = 20,
        smoothing_perturbed: int = 20,
    ) -> None:
        super().__init__()
        self.lambda_1 = lambda_1
        self.lambda_2 = lambda_2
        self.distance = distance
        self.repeats = repeats
        self.of_features = Histogram(bins, smoothing, FLOOR)
        self.of_logits = Histogram(bins, smoothing_perturbed, FLOOR_PERTURBED)

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        weight, generator = head.weight.detach(), torch.Generator().manual_seed(0)
        length, heads = self.distance * weight.norm(dim=1, keepdim=True), torch.empty(weight.shape[1], self.repeats * len(weight))
        # One head after the other: of a thousand classes they take 800 MB together.
        for head_weight in heads.split(len(weight), dim=1):
            noise = torch.randn(weight.shape, generator=generator)
            head_weight.copy_((weight + length * noise / noise.norm(dim=1, keepdim=True)).T)
        self.register_buffer("weight", heads)
        self.register_buffer("bias", head.bias.detach().repeat(self.repeats))
        # A histogram of so many is as good, and all pictures of ImageNet would take a day.
        rows = torch.linspace(0, len(train.features) - 1, min(len(train.features), FITTED)).round().long()
        parts = train.features[rows].split(max(1, min(ROWS, VALUES // len(self.bias))))
        self.of_features.fit(lambda: parts)
        self.of_logits.fit(lambda: (self.perturbed(part) for part in parts))

    def perturbed(self, features: Tensor) -> Tensor:
        """(N, D) -> the logits of all perturbed heads, one after the other, (N, repeats x C)."""
        return features @ self.weight + self.bias

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        perturbed = self.perturbed(features)
        sure = perturbed.unflatten(1, (self.repeats, -1)).softmax(dim=2).amax(dim=2).mean(dim=1)
        return self.of_features(features) + self.lambda_1 * self.of_logits(perturbed) - self.lambda_2 * sure
