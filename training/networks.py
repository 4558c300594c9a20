"""The networks: uint8 pictures in, features and logits out. Normalisation is part of the network.

Each network is a `Classifier`: a backbone that gives features (N, D) and a linear `head` that gives logits (N, C).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.choices import NetworkName

# Of torchvision's weights: all of ImageNet-1k.
PRETRAINED_CLASSES = 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """Pictures uint8 (N, H, W, 3) -> features (N, D) and logits (N, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Linear, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, of pixels in [0, 1]."""
        mean, std = ((buffer.flatten().double() / 255).tolist() for buffer in (self.mean, self.std))
        return [round(value, 6) for value in mean], [round(value, 6) for value in std]

    def normalised(self, images: Tensor) -> Tensor:
        # (N, H, W, 3) seen as (N, 3, H, W) is channels-last in memory already: nothing is copied.
        return (images.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def whiten(self, images: Callable[[], Tensor]) -> None:
        """Lets a backbone that wants it see training pictures, uint8 (N, H, W, 3), before the first step."""
        if isinstance(self.backbone, AirBench):
            self.backbone.whiten(self.normalised(images()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(self.normalised(images))
        if not torch.is_autocast_enabled(images.device.type):
            return features, self.head(features)
        # Rounded to bf16, the gaps between logits that losses and scores divide by would have three digits.
        with torch.autocast(images.device.type, enabled=False):
            return features.float(), self.head(features.float())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. He et al., Deep Residual Learning, CVPR 2016, arXiv 1512.03385."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet18Small(nn.Module):
    """ResNet-18 for 32x32 pictures: a 3x3 stem with stride 1, no max-pool, 8 * width features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [BasicBlock(inputs, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(functional.relu(self.norm(self.stem(x)))).mean(dim=(2, 3))


class AirBench(nn.Module):
    """For 32x32 pictures, learns in few epochs: a fixed whitening layer and six 3x3 convolutions, 4 * width features.

    Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, arXiv 2404.00498. ReLU instead of GELU: scores that
    clip or scale features want none below zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        self.stem.weight.requires_grad_(False)
        layers: list[nn.Module] = []
        for inputs, outputs in ((24, width), (width, 4 * width), (4 * width, 4 * width)):
            first, second = (nn.Conv2d(count, outputs, 3, padding=1, bias=False) for count in (inputs, outputs))
            for conv in (first, second):
                with torch.no_grad():  # as far as there are inputs, each output begins as a copy of one
                    nn.init.dirac_(conv.weight[: conv.in_channels])
            layers += [first, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def whiten(self, x: Tensor) -> None:
        """Makes the stem the principal directions of 2x2 patches, and their negatives, at unit variance."""
        patches = functional.unfold(x, 2).transpose(1, 2).reshape(-1, 12).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        directions = (vectors / (values + 0.01).sqrt()).T
        self.stem.weight.copy_(torch.cat([directions, -directions]).view(24, 3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(functional.relu(self.stem(x))).amax(dim=(2, 3))


def build_network(
    name: NetworkName, classes: int, mean: Sequence[float], std: Sequence[float], width: int = 64, pretrained: bool = False
) -> Classifier:
    """A freshly initialised network, or one with torchvision's ImageNet weights: in its backbone, and in its head if that has 1000 classes.

    mean, std: per channel, of pixels in [0, 1]. ValueError for a combination that does not exist.
    """
    if name in ("resnet18_32x32", "airbench_32x32"):
        if pretrained:
            raise ValueError(f"pretrained weights exist for resnet18_224x224 and resnet50_224x224, not for {name}")
        if name == "airbench_32x32":
            return Classifier(AirBench(width), nn.Linear(4 * width, classes), mean, std)
        return Classifier(ResNet18Small(width), nn.Linear(8 * width, classes), mean, std)
    if width != 64:
        raise ValueError(f"width is {width}, but {name} has torchvision's fixed width; width is for the networks at 32 pixels")
    from torchvision import models

    if name == "resnet18_224x224":
        backbone = models.resnet18(weights=models.ResNet18_Weights.IMAGENET1K_V1 if pretrained else None)
    else:
        backbone = models.resnet50(weights=models.ResNet50_Weights.IMAGENET1K_V1 if pretrained else None)
    # ImageNet-1k is fine-tuned from the whole network, its head included; other classes need a head of their own.
    keeps_head = pretrained and classes == PRETRAINED_CLASSES
    head = backbone.fc if keeps_head else nn.Linear(backbone.fc.in_features, classes)
    backbone.fc = nn.Identity()
    return Classifier(backbone, head, mean, std)
