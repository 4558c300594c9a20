import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from service.bundle.preprocess import InputSpec, decode
from service.captured import plain_picture, plain_pixels
from tests.test_same_pixels import KINDS, PICTURES

SECRET = b"taken at home"
SPECS = [InputSpec(size=24, resize=24, crop=24), InputSpec(size=24, resize=31, crop=24)]


def scene() -> Image.Image:
    return Image.open(PICTURES / "plain.png").convert("RGB").crop((0, 0, 40, 30))


def telling(form: str) -> bytes:
    """A file whose EXIF (with GPS and orientation), comment, ICC profile and tail all say the secret; it stands on its side."""
    exif, text = Image.Exif(), SECRET.decode()
    exif[0x0112] = 6
    exif[0x010E] = text
    exif.get_ifd(0x8825)[29] = text
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET
    buffer = io.BytesIO()
    if form == "PNG":
        about = PngImagePlugin.PngInfo()
        about.add_text("Comment", text)
        scene().save(buffer, form, exif=exif, icc_profile=profile, pnginfo=about)
    else:
        scene().save(buffer, form, exif=exif, icc_profile=profile, comment=text, xmp=b"<x>" + SECRET + b"</x>", quality=95)
    return buffer.getvalue() + SECRET


def chunks(png: bytes) -> list[bytes]:
    found, place = [], 8
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        found.append(kind)
        place += 12 + length
    assert place == len(png)
    return found


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_is_kept_with_the_very_pixels_that_were_decided_upon(kind: str, spec: InputSpec) -> None:
    data = (PICTURES / kind).read_bytes()
    np.testing.assert_array_equal(decode(plain_picture(data), spec), decode(data, spec))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_picture_on_its_side_is_kept_upright_with_the_very_pixels_that_were_decided_upon(form: str) -> None:
    data = telling(form)
    assert Image.open(io.BytesIO(plain_picture(data))).size == (30, 40)
    for spec in SPECS:
        np.testing.assert_array_equal(decode(plain_picture(data), spec), decode(data, spec))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_nothing_but_pixels_is_kept(form: str) -> None:
    data = telling(form)
    assert SECRET in data
    kept = plain_picture(data)
    assert SECRET not in kept
    assert set(chunks(kept)) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open(io.BytesIO(kept)) as image:
        image.load()
        assert image.info == {}


def test_what_lies_under_transparency_is_not_kept() -> None:
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[..., 0] = 200
    buffer = io.BytesIO()
    Image.fromarray(hidden).save(buffer, "PNG")
    assert (np.asarray(Image.open(io.BytesIO(plain_picture(buffer.getvalue())))) == 255).all()


@given(st.integers(1, 40), st.integers(0, 30))
def test_a_tensors_pixels_are_found_again_in_the_picture_that_is_kept_of_them(crop: int, more: int) -> None:
    spec = InputSpec(size=crop, resize=max(2, crop + more), crop=crop)
    pixels = np.random.default_rng(crop).integers(0, 256, (crop, crop, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(plain_pixels(pixels, spec), spec), pixels)
