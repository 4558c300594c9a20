import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.training.conftest import encode
from training.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted, plasma
from training.sources import Source

each_corruption = pytest.mark.parametrize("kind", CORRUPTIONS)


def scene(seed: int = 0, height: int = 32, width: int = 32) -> Image.Image:
    """A picture with edges, colours and fine texture, as photographs have them."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(height, width, 3)), (4, 4, 0))
    picture = 128 + 220 * smooth / np.abs(smooth).max() * 0.5 + random.normal(scale=6, size=(height, width, 3))
    picture[8:20, 8:20] = 255 - picture[8:20, 8:20]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def change(kind: str, severity: int) -> float:
    """Mean absolute change of a pixel over some pictures."""
    pictures = [scene(seed) for seed in range(12)]
    changed = [corrupt(picture, kind, severity, np.random.default_rng(seed)) for seed, picture in enumerate(pictures)]
    return float(np.mean([np.abs(np.asarray(after, float) - np.asarray(before)).mean() for before, after in zip(pictures, changed, strict=True)]))


def test_there_are_the_fifteen_corruptions_of_the_paper() -> None:
    noise_and_blur = "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur"
    weather_and_digital = "snow frost fog brightness contrast elastic_transform pixelate jpeg_compression"
    assert list(CORRUPTIONS) == f"{noise_and_blur} {weather_and_digital}".split()


@each_corruption
def test_every_severity_changes_the_picture_and_keeps_its_shape(kind: str) -> None:
    before = scene(height=40, width=32)
    for severity in range(SEVERITIES):
        after = corrupt(before, kind, severity, np.random.default_rng(0))
        assert (after.size, after.mode) == (before.size, "RGB")
        assert not np.array_equal(np.asarray(after), np.asarray(before))


@pytest.mark.parametrize("kind", sorted(set(CORRUPTIONS) - {"frost", "elastic_transform", "glass_blur", "pixelate"}))
def test_each_severity_changes_more_than_the_one_before(kind: str) -> None:
    changes = [change(kind, severity) for severity in range(SEVERITIES)]
    assert changes == sorted(changes)


@each_corruption
def test_the_same_generator_gives_the_same_picture(kind: str) -> None:
    one, again = (np.asarray(corrupt(scene(), kind, 2, np.random.default_rng(5))) for _ in range(2))
    assert np.array_equal(one, again)


def test_gaussian_noise_has_the_papers_deviation() -> None:
    grey = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
    noise = np.asarray(corrupt(grey, "gaussian_noise", 4, np.random.default_rng(0)), float) - 128
    assert noise.std() == pytest.approx(0.10 * 255, rel=0.03)


def test_impulse_noise_turns_the_papers_share_of_values_black_or_white() -> None:
    grey = Image.fromarray(np.full((100, 100, 3), 128, np.uint8))
    values = np.asarray(corrupt(grey, "impulse_noise", 4, np.random.default_rng(0)))
    assert np.mean(values == 0) == pytest.approx(0.035, rel=0.15)
    assert np.mean(values == 255) == pytest.approx(0.035, rel=0.15)
    assert set(np.unique(values)) == {0, 128, 255}


def test_brightness_keeps_the_hue_and_contrast_the_mean() -> None:
    plain = Image.fromarray(np.tile(np.array([100, 50, 150], np.uint8), (32, 32, 1)))
    brighter = np.asarray(corrupt(plain, "brightness", 1, np.random.default_rng(0)))[0, 0]
    assert brighter.tolist() == pytest.approx([100 * 175.5 / 150, 50 * 175.5 / 150, 175.5], abs=1)
    flat = np.asarray(corrupt(scene(), "contrast", 4, np.random.default_rng(0)), float)
    assert flat.mean(axis=(0, 1)) == pytest.approx(np.asarray(scene(), float).mean(axis=(0, 1)), abs=1)
    assert flat.std(axis=(0, 1)) == pytest.approx(0.15 * np.asarray(scene(), float).std(axis=(0, 1)), rel=0.02)


def test_blurs_keep_a_plain_picture_plain() -> None:
    plain = Image.fromarray(np.full((32, 32, 3), 90, np.uint8))
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        after = np.asarray(corrupt(plain, kind, 3, np.random.default_rng(1)), float)
        assert np.abs(after - 90).max() <= 1, kind


def test_a_cloud_spans_zero_to_one() -> None:
    cloud = plasma((32, 32), 2.0, np.random.default_rng(0))
    assert (cloud.shape, cloud.min(), cloud.max()) == ((32, 32), 0.0, 1.0)


def test_a_corrupted_set_takes_each_corruption_and_severity_in_turn_and_keeps_the_labels() -> None:
    data = encode(np.asarray(scene()))
    source = Source(("a", "b"), np.arange(75) % 2, lambda i: f"picture {i}", lambda i: data)
    shifted = corrupted(source)
    assert shifted.labels.tolist() == source.labels.tolist()
    assert shifted.name(3) == "picture 3, corrupted"
    pictures = {np.asarray(shifted.read(i)).tobytes() for i in range(75)}
    assert len(pictures) == 75
    expected = corrupt(scene(), "contrast", 3, np.random.default_rng([0, 56]))
    assert np.array_equal(np.asarray(shifted.read(56)), np.asarray(expected))  # 56 = 3 * 15 + 11, and contrast is the twelfth
    part = shifted.subset(np.array([56]))
    assert np.array_equal(np.asarray(part.read(0)), np.asarray(expected))
