"""Covariate shift by generator: the fifteen corruptions of CIFAR-10-C, in five severities, for small pictures.

Written from the description in Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019, arXiv 1903.12261, with CIFAR-10-C's severities. It is not the published set: the random numbers
are others, motion blur follows ImageMagick's only in kind, and frost is drawn by a fractal, because the paper pastes
photographs. Each corruption takes x (H, W, 3) in [0, 1], a severity from 0 to 4 and a generator.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter, map_coordinates, zoom

from service.bundle.preprocess import Pixels, to_rgb
from training.sources import Source

Array = NDArray[Any]
SEVERITIES = 5


def gaussian_noise(x: Array, severity: int, random: Generator) -> Array:
    return x + random.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity], size=x.shape)


def shot_noise(x: Array, severity: int, random: Generator) -> Array:
    photons = (500, 250, 100, 75, 50)[severity]
    return random.poisson(x * photons) / photons


def impulse_noise(x: Array, severity: int, random: Generator) -> Array:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    return np.where(random.random(x.shape) < share, random.integers(0, 2, x.shape), x)


def defocus_blur(x: Array, severity: int, random: Generator) -> Array:
    radius, smoothing = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity]
    y, z = np.mgrid[-8:9, -8:9]
    disk = (y**2 + z**2 <= radius**2).astype(float)
    return filtered(x, gaussian_filter(disk / disk.sum(), smoothing, radius=1, mode="mirror"))


def glass_blur(x: Array, severity: int, random: Generator) -> Array:
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity]
    x = blurred(x, sigma)
    height, width, _ = x.shape
    for moves in random.integers(-reach, reach, (rounds, height, width, 2)):
        for row in range(height - reach - 1, reach - 1, -1):
            for column in range(width - reach - 1, reach - 1, -1):
                here, there = (row, column), (row + moves[row, column, 0], column + moves[row, column, 1])
                x[here], x[there] = x[there].copy(), x[here].copy()
    return blurred(x, sigma)


def motion_blur(x: Array, severity: int, random: Generator) -> Array:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity]
    return dragged(x, radius, sigma, random.uniform(-45, 45))


def zoom_blur(x: Array, severity: int, random: Generator) -> Array:
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity], 0.01)
    return (x + sum(enlarged(x, factor) for factor in factors)) / (len(factors) + 1)


def snow(x: Array, severity: int, random: Generator) -> Array:
    mean, spread, factor, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity]
    flakes = enlarged(random.normal(mean, spread, (*x.shape[:2], 1)), factor)
    flakes = dragged(np.where(flakes < least, 0, flakes).clip(0, 1), radius, sigma, random.uniform(-135, -45))
    grey = x @ np.array([0.299, 0.587, 0.114])
    pale = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey[:, :, None] + 0.5)
    return pale + flakes + flakes[::-1, ::-1]


def frost(x: Array, severity: int, random: Generator) -> Array:
    kept, added = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity]
    ridges = (1 - np.abs(2 * plasma(x.shape, 1.4, random) - 1)) ** 2
    return kept * x + added * ridges[:, :, None] * np.array([0.85, 0.93, 1.0])


def fog(x: Array, severity: int, random: Generator) -> Array:
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity]
    brightest = x.max()
    return (x + strength * plasma(x.shape, decay, random)[:, :, None]) * brightest / (brightest + strength)


def brightness(x: Array, severity: int, random: Generator) -> Array:
    value = x.max(axis=2, keepdims=True)
    brighter = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity]).clip(0, 1)
    # Hue and saturation stay: all three channels grow alike. Black has neither.
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * brighter


def contrast(x: Array, severity: int, random: Generator) -> Array:
    mean = x.mean(axis=(0, 1))
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean


def elastic_transform(x: Array, severity: int, random: Generator) -> Array:
    shares = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[severity]
    side = x.shape[0]
    strength, sigma, affine = (share * side for share in shares)
    corners = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + random.uniform(-affine, affine, corners.shape)
    # Three corners and where they go say which affine map; backwards, because a pixel asks where it comes from.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    shift = [strength * gaussian_filter(random.uniform(-1, 1, x.shape[:2]), sigma, mode="reflect", truncate=3) for _ in range(2)]
    places = np.stack([rows + shift[0], columns + shift[1], np.ones_like(rows)], axis=-1) @ back
    return sampled(x, places[..., 0], places[..., 1])


def pixelate(x: Array, severity: int, random: Generator) -> Array:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    height, width, _ = x.shape
    small = to_image(x).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def jpeg_compression(x: Array, severity: int, random: Generator) -> Array:
    buffer = io.BytesIO()
    to_image(x).save(buffer, "JPEG", quality=(80, 65, 58, 50, 40)[severity])
    return np.asarray(Image.open(buffer)) / 255


CORRUPTIONS: dict[str, Callable[[Array, int, Generator], Array]] = {
    kind.__name__: kind
    for kind in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression),
    )
}


def filtered(x: Array, kernel: Array) -> Array:
    return convolve(x, kernel[:, :, None], mode="mirror")


def blurred(x: Array, sigma: float) -> Array:
    return gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def dragged(x: Array, radius: int, sigma: float, degrees: float) -> Array:
    """Blurred to one side along a direction, by the weights of half a Gaussian: 2 radius + 1 steps of one pixel."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    y, z = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    parts = [weight * sampled(x, rows + step * y, columns + step * z) for step, weight in zip(steps, weights / weights.sum(), strict=True)]
    return np.sum(parts, axis=0)


def sampled(x: Array, rows: Array, columns: Array) -> Array:
    """The picture at fractional places (H, W), reflected beyond its border."""
    return np.stack([map_coordinates(x[:, :, channel], [rows, columns], order=1, mode="reflect") for channel in range(x.shape[2])], axis=2)


def enlarged(x: Array, factor: float) -> Array:
    """The middle of the picture, enlarged to its size."""
    height, width, _ = x.shape
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    large = zoom(x[top : top + rows, left : left + columns], (factor, factor, 1), order=1)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def plasma(shape: tuple[int, ...], decay: float, random: Generator) -> Array:
    """A cloud (H, W) in [0, 1]: diamonds and squares, each step's noise less than the last one's by decay squared."""
    side = 2 ** int(np.ceil(np.log2(max(shape[:2]))))
    cloud = np.zeros((side, side))
    step, amplitude = side, 1.0
    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        below, right = np.roll(corners, -1, 0), np.roll(corners, -1, 1)
        noise = random.uniform(-amplitude, amplitude, (3, *corners.shape))
        middles = (corners + below + right + np.roll(below, -1, 1)) / 4 + noise[0]
        cloud[half::step, half::step] = middles
        cloud[::step, half::step] = (corners + right + middles + np.roll(middles, 1, 0)) / 4 + noise[1]
        cloud[half::step, ::step] = (corners + below + middles + np.roll(middles, 1, 1)) / 4 + noise[2]
        step, amplitude = half, amplitude / decay**2
    cloud -= cloud.min()
    return (cloud / cloud.max())[: shape[0], : shape[1]]


def to_image(x: Array) -> Image.Image:
    return Image.fromarray(to_bytes(x))


def to_bytes(x: Array) -> Pixels:
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def corrupt(image: Image.Image, kind: str, severity: int, random: Generator) -> Image.Image:
    """One picture with one corruption; severity from 0 to 4."""
    return to_image(CORRUPTIONS[kind](np.asarray(to_rgb(image)) / 255, severity, random))


def corrupted(source: Source, seed: int = 0) -> Source:
    """Every picture of a set once, the corruptions and severities in turn; the same for the same seed."""
    kinds = list(CORRUPTIONS)

    def read(row: int) -> Image.Image:
        picture = source.read(row)
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        severity, kind = divmod(row, len(kinds))
        return corrupt(image, kinds[kind], severity % SEVERITIES, np.random.default_rng([seed, row]))

    return replace(source, name=lambda row: f"{source.name(row)}, corrupted", read=read)
