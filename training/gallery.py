"""The pictures that a score gets most wrong: the strangest ID pictures and the most usual OOD pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.decision import Gate, p_values
from service.bundle.preprocess import Pixels
from training.measure import Measured
from training.postprocessors import Outputs
from training.sources import Source

Array = NDArray[Any]
LENGTH = 12
SIDE = 64


@dataclass(frozen=True)
class Thumbnail:
    """One picture as a data URI, and what the network makes of it. The p-value is None without calibration pictures."""

    uri: str
    predicted: str
    truth: str
    p_value: float | None
    rejected: bool


@dataclass(frozen=True)
class Strip:
    """The hardest pictures of one set, the hardest first. `name` is empty for ID pictures."""

    name: str
    thumbnails: Sequence[Thumbnail]


class Gallery:
    """Encodes each picture once, however many scores find it hard."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self.encoded: dict[tuple[str, int], str] = {}

    def strips(self, key: str, gate: Gate | None) -> list[Strip]:
        measured = self.measured
        found = [self.strip("", measured.targets.id_test, measured.inside, -measured.id_scores[key], key, gate)]
        for name, outputs in measured.outside.items():
            found.append(self.strip(name, measured.targets.sources[name], outputs, measured.ood_scores[name][key], key, gate))
        return [strip for strip in found if strip.thumbnails]

    def strip(self, name: str, source: Source, outputs: Outputs, ease: Array, key: str, gate: Gate | None) -> Strip:
        """`ease` (N,): the smaller, the harder."""
        if len(ease) != len(source):  # unreadable pictures were left out, so rows no longer match
            return Strip(name, ())
        classes, calibration = self.measured.trained.classes, self.measured.calibration[key]
        thumbnails = []
        for row in np.argsort(ease, kind="stable")[:LENGTH].tolist():
            scores = np.array([ease[row] if name else -ease[row]], np.float32)
            predicted = classes[int(outputs.logits[row].argmax())]
            truth = "" if name else classes[int(outputs.labels[row])]
            p_value = float(p_values(calibration, scores)[0]) if len(calibration) else None
            rejected = gate is not None and bool(scores[0] > gate.threshold)
            thumbnails.append(Thumbnail(self.uri(name, source, row), predicted, truth, p_value, rejected))
        return Strip(name, thumbnails)

    def uri(self, name: str, source: Source, row: int) -> str:
        if (name, row) not in self.encoded:
            self.encoded[name, row] = data_uri(source.pixels(row, self.measured.trained.recipe.input))
        return self.encoded[name, row]


def data_uri(pixels: Pixels) -> str:
    """A picture (H, W, 3) of at most 64 x 64 pixels as WebP."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
