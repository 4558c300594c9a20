"""What a recipe chooses among and lower layers offer. Without torch, whose import takes seconds: mistakes are told before it."""

from typing import Literal

NetworkName = Literal["resnet18_32x32", "airbench_32x32", "resnet18_224x224", "resnet50_224x224"]
Augmentation = Literal["crop-flip", "resized-crop-flip", "none"]
HIGHEST = 30  # magnitude of RandAugment
