"""RandAugment of whole batches: each picture gets operations of its own, all at one magnitude.

Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, NeurIPS 2020, arXiv 1909.13719.
Operations and their ranges are torchvision's; pictures that drew the same operation go through it together.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from training.choices import HIGHEST_MAGNITUDE

Operation = Callable[[Tensor, float, int], Tensor]


def affine(images: Tensor, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Moves or shears pictures (N, 3, H, W) as the paper does it: shears are tangents, from the upper left corner."""
    degrees = [math.degrees(math.atan(value)) for value in shear]
    centre = [0.0, 0.0] if any(shear) else None
    return functional.affine(images, 0.0, list(translate), 1.0, degrees, InterpolationMode.BILINEAR, center=centre)


# Each takes pictures (N, 3, H, W), the magnitude from 0 to 1, and a sign, which some have no use for.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda x, m, sign: x,
    "shear-x": lambda x, m, sign: affine(x, shear=(sign * 0.3 * m, 0.0)),
    "shear-y": lambda x, m, sign: affine(x, shear=(0.0, sign * 0.3 * m)),
    "translate-x": lambda x, m, sign: affine(x, translate=(sign * int(150 / 331 * x.shape[3] * m), 0)),
    "translate-y": lambda x, m, sign: affine(x, translate=(0, sign * int(150 / 331 * x.shape[2] * m))),
    "rotate": lambda x, m, sign: functional.rotate(x, sign * 30 * m, InterpolationMode.BILINEAR),
    "brightness": lambda x, m, sign: functional.adjust_brightness(x, 1 + sign * 0.9 * m),
    "color": lambda x, m, sign: functional.adjust_saturation(x, 1 + sign * 0.9 * m),
    "contrast": lambda x, m, sign: functional.adjust_contrast(x, 1 + sign * 0.9 * m),
    "sharpness": lambda x, m, sign: functional.adjust_sharpness(x, 1 + sign * 0.9 * m),
    "posterize": lambda x, m, sign: functional.posterize(x, 8 - round(4 * m)),
    "solarize": lambda x, m, sign: functional.solarize(x, 255 * (1 - m)),
    "auto-contrast": lambda x, m, sign: functional.autocontrast(x),
    "equalize": lambda x, m, sign: functional.equalize(x),
}


def randaugment(images: Tensor, operations: int, magnitude: int, generator: Generator) -> Tensor:
    """Pictures uint8 (N, H, W, 3), each changed `operations` times. magnitude: from 0 to 30, the same for all."""
    kinds = list(OPERATIONS.values())
    x = images.permute(0, 3, 1, 2)
    for _ in range(operations):
        drawn = torch.randint(0, len(kinds), (len(x),), generator=generator) * 2 + torch.randint(0, 2, (len(x),), generator=generator)
        changed = x.clone()
        for value in drawn.unique().tolist():
            rows = (drawn == value).nonzero().flatten().to(x.device)
            changed[rows] = kinds[value // 2](x[rows], magnitude / HIGHEST_MAGNITUDE, 2 * (value % 2) - 1)
        x = changed
    return x.permute(0, 2, 3, 1)
