import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional

from training.augment import augment, crop, flip, resized_crop


def pictures(count: int, size: int = 32) -> Tensor:
    return torch.randint(1, 256, (count, size, size, 3), dtype=torch.uint8, generator=Generator().manual_seed(7))


def test_a_crop_is_a_window_of_the_padded_picture() -> None:
    images = pictures(60)
    cut = crop(images, Generator().manual_seed(0))
    for before, after in zip(images, cut, strict=True):
        padded = functional.pad(before, (0, 0, 4, 4, 4, 4))
        windows = [(top, left) for top in range(9) for left in range(9) if torch.equal(padded[top : top + 32, left : left + 32], after)]
        assert len(windows) == 1


def test_crops_reach_every_offset() -> None:
    ramp = torch.arange(1, 33, dtype=torch.uint8)
    images = (ramp[:, None] * torch.ones(32, dtype=torch.uint8))[None, :, :, None].expand(500, 32, 32, 3)
    middles = crop(images, Generator().manual_seed(0))[:, 16, 16, 0]
    assert set(middles.tolist()) == set(range(17 - 4, 17 + 5))


def test_a_flip_mirrors_left_to_right_and_nothing_else() -> None:
    images = pictures(200)
    flipped = flip(images, Generator().manual_seed(0))
    mirrored = torch.tensor([torch.equal(after, before.flip(1)) for before, after in zip(images, flipped, strict=True)])
    same = torch.tensor([torch.equal(after, before) for before, after in zip(images, flipped, strict=True)])
    assert bool((mirrored ^ same).all())


def test_about_half_of_the_pictures_are_flipped() -> None:
    images = pictures(400, 4)
    flipped = (flip(images, Generator().manual_seed(0)) != images).flatten(1).any(dim=1).sum().item()
    assert 160 <= flipped <= 240


@given(size=st.integers(1, 48), side=st.integers(2, 48), seed=st.integers(0, 10_000))
def test_a_resized_crop_invents_no_colour(size: int, side: int, seed: int) -> None:
    images = torch.randint(60, 200, (3, side, side, 3), dtype=torch.uint8, generator=Generator().manual_seed(seed))
    cut = resized_crop(images, size, Generator().manual_seed(seed))
    assert cut.shape == (3, size, size, 3)
    assert cut.dtype == torch.uint8
    assert cut.min() >= images.min()
    assert cut.max() <= images.max()


def test_resized_crops_cover_8_to_100_percent_of_the_area() -> None:
    ramp = torch.linspace(0, 255, 256)
    across = ramp[None, :].expand(256, 256)
    images = torch.stack([across, across.T, across], dim=2).byte()[None].expand(300, 256, 256, 3)
    cut = resized_crop(images, 64, Generator().manual_seed(0)).float()
    width = (cut[:, 32, -1, 0] - cut[:, 32, 0, 0]) / 255 * 64 / 63
    height = (cut[:, -1, 32, 1] - cut[:, 0, 32, 1]) / 255 * 64 / 63
    area, ratio = width * height, width / height
    assert 0.07 < area.min() < 0.15
    assert 0.9 < area.max() < 1.03
    assert 0.72 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.37


def test_resized_crops_are_spread_over_the_picture() -> None:
    across = torch.linspace(0, 255, 256)[None, :].expand(256, 256).byte()
    images = torch.stack([across] * 3, dim=2)[None].expand(300, 256, 256, 3)
    cut = resized_crop(images, 64, Generator().manual_seed(0))
    assert cut[:, 32, 0, 0].min() < 10
    assert cut[:, 32, -1, 0].max() > 245
    assert abs(cut[:, 32, 32, 0].float().mean().item() - 128) < 12


@pytest.mark.parametrize("kind", ["crop-flip", "resized-crop-flip"])
def test_augmentation_goes_on_from_a_saved_generator(kind: str) -> None:
    images, generator = pictures(8), Generator().manual_seed(3)
    augment(images, kind, 32, generator)  # type: ignore[arg-type]
    saved = generator.get_state()
    expected = augment(images, kind, 32, generator)  # type: ignore[arg-type]
    resumed = Generator()
    resumed.set_state(saved)
    assert torch.equal(augment(images, kind, 32, resumed), expected)  # type: ignore[arg-type]
    assert not torch.equal(augment(images, kind, 32, resumed), expected)  # type: ignore[arg-type]


def test_no_augmentation_leaves_the_pictures_alone() -> None:
    images = pictures(4)
    assert torch.equal(augment(images, "none", 32, Generator()), images)
