"""Augmentation of whole batches, on whatever device they are on. Pictures stay uint8 (N, H, W, 3)."""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.choices import Augmentation
from training.devices import move
from training.randaugment import randaugment


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each picture left to right with probability one half."""
    chosen = move(torch.rand(len(images), generator=generator), images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def crop(images: Tensor, generator: Generator, padding: int = 4) -> Tensor:
    """Pads each picture with black and cuts a window of the old size at random: torchvision's RandomCrop, batched."""
    count, height, width, _ = images.shape
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    top, left = move(torch.randint(0, 2 * padding + 1, (2, count), generator=generator), images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device)
    return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def resized_crop(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Cuts a window of 8 to 100 % of the area, aspect 3/4 to 4/3, and resizes it (bilinear) to size x size.

    The window is drawn inside the square that preprocessing left, not inside the original picture.
    """
    count = len(images)
    area, aspect, y, x = move(torch.rand((4, count), generator=generator), images.device)
    area = 0.08 + 0.92 * area
    ratio = torch.exp((2 * aspect - 1) * torch.log(torch.tensor(4 / 3)))
    h, w = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    theta = torch.zeros(count, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = w, h
    theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - w), (2 * y - 1) * (1 - h)
    grid = functional.affine_grid(theta, [count, 3, size, size], align_corners=False)
    cut = functional.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    return cut.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def augment(images: Tensor, kind: Augmentation, size: int, generator: Generator, operations: int = 0, magnitude: int = 0) -> Tensor:
    """One batch for training, (N, H, W, 3) -> (N, size, size, 3); random numbers from a CPU generator, so resumable.

    operations, magnitude: RandAugment's. As OpenOOD has it, it comes before a crop and after a resized crop.
    """
    if kind == "resized-crop-flip":
        return randaugment(flip(resized_crop(images, size, generator), generator), operations, magnitude, generator)
    images = randaugment(images, operations, magnitude, generator)
    return flip(crop(images, generator), generator) if kind == "crop-flip" else images
