"""Real files of every kind, written by another program (ImageMagick) from one scene: the service sees what they show, and what training saw."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from service.bundle.preprocess import InputSpec, Pixels, decode
from training.sources import open_source

PICTURES = Path(__file__).parent / "pictures"
SPEC = InputSpec(size=24, resize=24, crop=24)
# How far a pixel may be off on average: what the encoder itself takes away.
KINDS = {
    "alpha.png": 1.0,
    "animated.gif": 5.0,
    "baseline.jpg": 1.0,
    "cmyk.jpg": 1.0,
    "cmyk.tif": 0.5,
    "grey.png": 0.0,
    "grey16.png": 1.0,
    "grey16.tif": 1.0,
    "palette.png": 8.0,
    "plain.bmp": 0.0,
    "plain.png": 0.0,
    "plain.tif": 0.0,
    "plain.webp": 0.0,
    "progressive.jpg": 1.0,
    "rgb16.png": 1.0,
    "rotated.tif": 0.0,
}


def scene(kind: str) -> Pixels:
    """What the file shows, from the plainest file of the scene."""
    shown = decode((PICTURES / ("grey.png" if kind.startswith("grey") else "plain.png")).read_bytes(), SPEC)
    return (shown / 2 + 127.5).astype(np.uint8) if kind.startswith("alpha") else shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_shows_the_scene(kind: str) -> None:
    decoded = decode((PICTURES / kind).read_bytes(), SPEC)
    assert np.abs(decoded.astype(int) - scene(kind)).mean() <= KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_the_service_see_the_same_pixels(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(PICTURES / kind, tmp_path / "a" / kind)
    source = open_source(str(tmp_path), "train")
    assert source is not None
    np.testing.assert_array_equal(source.pixels(0, SPEC), decode((PICTURES / kind).read_bytes(), SPEC))


def test_progressive_and_baseline_show_the_same() -> None:
    progressive, baseline = (decode((PICTURES / f"{name}.jpg").read_bytes(), SPEC).astype(int) for name in ("progressive", "baseline"))
    assert np.abs(progressive - baseline).max() <= 1
