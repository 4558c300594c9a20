"""What the settings of a recipe can be. Without torch, whose import takes seconds: what cannot be is told before."""

from typing import Literal

NetworkName = Literal["resnet18_32x32", "airbench_32x32", "resnet18_224x224", "resnet50_224x224"]
Augmentation = Literal["crop-flip", "resized-crop-flip", "none"]
HIGHEST_MAGNITUDE = 30  # of RandAugment
