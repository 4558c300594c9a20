import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.bundle.preprocess import (
    MAX_SCANS,
    STRIP,
    InputSpec,
    InvalidImage,
    Pixels,
    TooManyPixels,
    TooManyScans,
    Undecodable,
    UnknownFormat,
    decode,
    on_white,
    too_many_scans,
)

SPEC = InputSpec(size=32, resize=32, crop=32)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 32, width: int = 32) -> Pixels:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], axis=-1).astype(np.uint8)


def test_a_picture_of_the_right_size_comes_through_unchanged() -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(gradient())), SPEC), gradient())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_accepted_format_is_decoded(kind: str) -> None:
    decoded = decode(encode(Image.fromarray(gradient()), kind), SPEC)
    assert decoded.shape == (32, 32, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - gradient()).mean() < 12


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    deep = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(deep)), SPEC)[..., 0], (deep >> 8).astype(np.uint8))


def test_grey_becomes_three_equal_channels() -> None:
    decoded = decode(encode(Image.fromarray(gradient()[..., 0])), SPEC)
    np.testing.assert_array_equal(decoded, np.repeat(gradient()[..., :1], 3, axis=2))


def test_a_palette_is_looked_up() -> None:
    picture = Image.fromarray(gradient()).quantize(64)
    np.testing.assert_array_equal(decode(encode(picture), SPEC), np.asarray(picture.convert("RGB")))


def test_transparency_is_laid_on_white() -> None:
    assert (decode(encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), SPEC) == 255).all()


def test_a_transparent_palette_colour_is_laid_on_white() -> None:
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([0, 0, 0] * 256)
    assert (decode(encode(picture, transparency=0), SPEC) == 255).all()


def test_cmyk_becomes_rgb() -> None:
    decoded = decode(encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), SPEC)
    assert decoded[16, 16, 0] > 200
    assert decoded[16, 16, 1] < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright_as_its_exif_says(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(gradient()), kind, exif=exif, **options), SPEC), upright(gradient()))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, SPEC)[0, 0].tolist() == [255, 0, 0]


def test_a_progressive_jpeg_is_decoded_as_a_sequential_one() -> None:
    picture = Image.fromarray(gradient())
    np.testing.assert_array_equal(decode(encode(picture, "JPEG", progressive=True), SPEC), decode(encode(picture, "JPEG"), SPEC))


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 400), (400, 2), (31, 33), (33, 31), (100, 37)])
def test_any_shape_ends_as_the_centre_square(height: int, width: int) -> None:
    assert decode(encode(Image.fromarray(gradient(height, width))), SPEC).shape == (32, 32, 3)


def test_the_centre_is_cut_out_after_resizing() -> None:
    spec = InputSpec(size=16, resize=32, crop=16)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(gradient())), spec), gradient()[8:24, 8:24])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


# Pillow itself is silent about the first, warns of the second and refuses the third.
@pytest.mark.parametrize("side", [9000, 9700, 50_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(TooManyPixels, match="at most 40000000"):
        decode(png_header(side, side), SPEC)


@pytest.mark.parametrize(("width", "height"), [(20_000_000, 2), (2, 20_000_000), (201, 1), (2, 402)])
def test_a_strip_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(InvalidImage, match=r"one side may be at most 200 times the other|at least 2x2"):
        decode(png_header(width, height), SPEC)


def test_frames_behind_the_first_are_never_read() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    alone = encode(frames[0], "GIF")
    broken = data[: len(alone) + 5] + bytes(len(data))
    assert decode(broken, SPEC)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)), kind)
    with pytest.raises(InvalidImage):
        decode(data[: len(data) // 2], SPEC)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 32), (32, 1)])
def test_one_pixel_is_too_small(width: int, height: int) -> None:
    with pytest.raises(Undecodable, match="at least 2x2"):
        decode(encode(Image.new("RGB", (width, height))), SPEC)


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"P6 2 2 255 " + bytes(12)])
def test_bytes_of_no_accepted_format_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownFormat):
        decode(data, SPEC)


@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_whatever_the_bytes_the_shape_is_right_or_the_picture_refused(kind: str, flips: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(encode(Image.fromarray(gradient(20, 24)), kind))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        decoded = decode(bytes(data[: int(cut * len(data)) + 1]), SPEC, max_pixels=1_000_000)
    except InvalidImage:
        return
    assert decoded.shape == (32, 32, 3)
    assert decoded.dtype == np.uint8


def with_scans(extra: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    data = encode(Image.fromarray(gradient()[..., 0]), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * extra + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    own = with_scans(0).count(b"\xff\xda")
    decode(with_scans(MAX_SCANS - own), SPEC)
    with pytest.raises(TooManyScans, match=f"the JPEG has more than {MAX_SCANS} scans or 2000 segments, which are the most that are decoded"):
        decode(with_scans(MAX_SCANS - own + 1), SPEC)


@pytest.mark.parametrize("where", ["in a segment", "after the end"])
def test_scans_of_what_comes_along_with_a_jpeg_are_not_its_own(where: str) -> None:
    data = with_scans(0)
    others = with_scans(2 * MAX_SCANS)
    if where == "in a segment":
        assert len(others) < 2**16 - 2
        data = data[:2] + b"\xff\xe5" + (len(others) + 2).to_bytes(2, "big") + others + data[2:]
    else:
        data += others
    np.testing.assert_array_equal(decode(data, SPEC), decode(with_scans(0), SPEC))


@pytest.mark.parametrize("filling", [b"\xff\x01", b"\xff\xe0\x00\x02"])
def test_a_jpeg_of_nothing_but_segments_is_not_looked_through_to_its_end(filling: bytes) -> None:
    data = with_scans(0)
    first = data.index(b"\xff\xda")
    # That the end is never seen is what the scans after it show.
    assert too_many_scans(data[:first] + filling * 3000 + b"\xff\xd9" + b"\xff\xda" * 50)
    assert not too_many_scans(data[:first] + filling * 100 + b"\xff\xd9" + b"\xff\xda" * 50)


def test_no_marker_hides_scans() -> None:
    """Restarts, fill bytes, markers without a length, and a stuffed zero are what a decoder reads over."""
    data = with_scans(2 * MAX_SCANS)
    first = data.index(b"\xff\xda")
    for hidden_by in (b"\xff\x01", b"\xff\xff\xff", b"\xff\xd0", b"\xff\x00", b"\xff\xe5\x00\x02"):
        assert too_many_scans(data[:first] + hidden_by + data[first:]), hidden_by


def test_laying_on_white_strip_by_strip_changes_no_pixel() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2 * STRIP + 7, 5, 4), np.uint8))
    at_once = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    assert on_white(picture).tobytes() == at_once.tobytes()


def test_floating_point_pixels_are_refused_since_their_scale_is_not_told() -> None:
    with pytest.raises(Undecodable, match=r"floating-point pixels, whose scale is not told; 8 or 16 bits"):
        decode(encode(Image.fromarray(np.random.default_rng(0).random((9, 9), np.float32)), "TIFF"), SPEC)
