import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from training.augment import augment
from training.choices import HIGHEST_MAGNITUDE
from training.randaugment import OPERATIONS, randaugment

TORCHVISIONS = {
    "identity": "Identity",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "auto-contrast": "AutoContrast",
    "equalize": "Equalize",
}


def pictures(count: int, size: int = 32) -> Tensor:
    """(N, size, size, 3): smooth enough that every operation shows."""
    coarse = torch.rand(count, 3, 6, 6, generator=Generator().manual_seed(7)) * 200 + 20
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize("magnitude", [9, 14])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions(name: str, magnitude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = v2.RandAugment(1, magnitude, interpolation=v2.InterpolationMode.BILINEAR)
    space = theirs._AUGMENTATION_SPACE
    monkeypatch.setattr(theirs, "_AUGMENTATION_SPACE", {TORCHVISIONS[name]: space[TORCHVISIONS[name]]})
    images = pictures(3).permute(0, 3, 1, 2)
    ours = [OPERATIONS[name](images, magnitude / HIGHEST_MAGNITUDE, sign) for sign in (-1, 1)]
    torch.manual_seed(0)
    for _ in range(8):  # either sign, as it falls
        expected = theirs(images)
        # torchvision takes magnitudes from a float32 table, which rounds a few pixels to the next value.
        assert any((one.int() - expected.int()).abs().max() <= 1 for one in ours)


def test_all_of_torchvisions_operations_are_there() -> None:
    assert set(TORCHVISIONS.values()) == set(v2.RandAugment._AUGMENTATION_SPACE)
    assert set(TORCHVISIONS) == set(OPERATIONS)


def test_pictures_of_one_batch_get_operations_of_their_own() -> None:
    images = pictures(1).expand(400, -1, -1, -1)
    changed = randaugment(images, 1, 14, Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    different = len(changed.flatten(1).unique(dim=0))
    assert 18 <= different <= 23  # fourteen operations, eight of them with a sign, one that does nothing and some that hardly do


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    images = pictures(40)
    changed = randaugment(images, 2, 14, Generator().manual_seed(0))
    for row in (0, 17, 39):
        others = images.flip(2).clone()
        others[row] = images[row]
        assert torch.equal(randaugment(others, 2, 14, Generator().manual_seed(0))[row], changed[row])


def test_no_operation_leaves_pictures_and_generator_alone() -> None:
    images, generator = pictures(4), Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(randaugment(images, 0, 14, generator), images)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", ["crop-flip", "resized-crop-flip", "none"])
def test_it_goes_on_from_a_saved_generator(kind: str) -> None:
    images, generator = pictures(16), Generator().manual_seed(3)
    saved = generator.get_state()
    expected = augment(images, kind, 32, generator, 2, 9)  # type: ignore[arg-type]
    resumed = Generator()
    resumed.set_state(saved)
    assert torch.equal(augment(images, kind, 32, resumed, 2, 9), expected)  # type: ignore[arg-type]
    resumed.set_state(saved)
    assert not torch.equal(augment(images, kind, 32, resumed), expected)  # type: ignore[arg-type]
