"""Encoded bytes -> uint8 (H, W, 3). The one way a picture becomes pixels, in training, calibration and service alike.

A score is calibrated on pixels, so every step that could move one is fixed here: formats, orientation, colour mode,
filter. Knows nothing of HTTP; its errors say what was wrong with the picture.
"""

import io
import re
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# What such files are called: for finding pictures in folders, never for judging them.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# How their files begin: one that begins so and cannot be opened is broken, not unknown.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# The longer side over the shorter: 2 x 20,000,000 pixels, resized to a shorter side of 256, would take 2 TB.
MAX_ASPECT = 200
# Rows that are laid on white at once: Pillow holds the interpreter's lock so long, and four copies of them.
STRIP = 256
# A progressive JPEG repeats itself, finer with each scan, which takes the time of all pixels and few bytes. Encoders write ten, of CMYK eighteen.
MAX_SCANS, MAX_SEGMENTS = 30, 2000
START_OF_SCAN, END_OF_IMAGE, ALONE = 0xDA, 0xD9, (0x01, 0xD8)
# Within a scan, 0xff before a zero is data and before 0xd0 to 0xd7 a restart.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
Pixels = NDArray[np.uint8]


class InvalidImage(Exception):
    """A picture that cannot be answered. `reason` is one of a few stable words, for counting."""

    reason = "invalid"


class UnknownFormat(InvalidImage):
    """The bytes are none of the accepted formats."""

    reason = "format"


class TooManyPixels(InvalidImage):
    """The header declares more pixels than are decoded."""

    reason = "pixels"


class TooLong(InvalidImage):
    """A strip: brought to the network's size its longer side would be very long, whatever the number of its pixels."""

    reason = "aspect"


class TooManyScans(InvalidImage):
    """A JPEG that would take far longer to decode than its pixels do."""

    reason = "scans"


class Undecodable(InvalidImage):
    """The format is known, but the picture is broken or too small."""

    reason = "undecodable"


class InputSpec(BaseModel):
    """How a picture is brought to the network's size: shorter side to `resize`, then the centre `crop` x `crop`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[int, Field(ge=1, le=4096, description="height and width of the network's input, in pixels")]
    resize: Annotated[int, Field(ge=1, le=4096, description="the shorter side after resizing, in pixels")]
    crop: Annotated[int, Field(ge=1, le=4096, description="side of the centre crop, in pixels; equals size")]
    interpolation: Literal["bilinear"] = "bilinear"


def decode(data: bytes, spec: InputSpec, max_pixels: int = 40_000_000) -> Pixels:
    """Decodes one picture, of an animation the first frame, to (crop, crop, 3).

    Raises UnknownFormat, TooManyPixels, TooLong or TooManyScans (before any pixel is decoded) or Undecodable.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(SIGNATURES):
            raise Undecodable("the image is broken or cut off within its header") from None
        raise UnknownFormat(f"the {len(data)} bytes are none of the accepted formats: {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:  # the latter where warnings are errors
        raise TooManyPixels(f"{exc}, at most {max_pixels} are decoded") from None
    except Exception as exc:  # noqa: BLE001 -- a decoder's parser meets arbitrary bytes: what it raises is not documented
        raise Undecodable(f"image header cannot be read: {exc}") from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(f"image has {width}x{height} pixels, at most {max_pixels} are decoded")
        if width < 2 or height < 2:
            raise Undecodable(f"image has {width}x{height} pixels, at least 2x2 are needed")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise TooLong(f"image has {width}x{height} pixels, one side may be at most {MAX_ASPECT} times the other")
        if too_many_scans(data):
            raise TooManyScans(f"the JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments, which are the most that are decoded")
        try:
            image.load()
            return to_pixels(image, spec)
        except Undecodable:
            raise
        except Exception as exc:  # noqa: BLE001 -- as above
            raise Undecodable(f"{image.format} image cannot be decoded: {exc}") from None


def too_many_scans(data: bytes) -> bool:
    """Whether this is a JPEG of more than MAX_SCANS, or of so many segments that looking through them would take as long."""
    if not data.startswith(b"\xff\xd8") or data.count(b"\xff\xda") <= MAX_SCANS:
        return False
    # Thumbnails, and whatever else lies in a segment or after the end, have markers as well: those of the picture itself are counted.
    found = place = 0
    for _ in range(MAX_SEGMENTS):
        if found > MAX_SCANS or not (marker := MARKER.search(data, place)) or (kind := data[marker.end() - 1]) == END_OF_IMAGE:
            return found > MAX_SCANS
        found += kind == START_OF_SCAN
        place = marker.end()
        if kind not in ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return True


def to_pixels(image: Image.Image, spec: InputSpec) -> Pixels:
    """A decoded Pillow image (its first frame) to (crop, crop, 3): upright, 8-bit RGB, resized and centre-cropped."""
    if image.info:
        # Where nothing but the pixels is told, the orientation is not either, and to look for it is felt with small pictures.
        ImageOps.exif_transpose(image, in_place=True)
    image = to_rgb(image)
    width, height = image.size
    shorter = min(width, height)
    if shorter != spec.resize:
        # As torchvision's Resize: the longer side is truncated, not rounded.
        scaled = (int(spec.resize * width / shorter), int(spec.resize * height / shorter))
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - spec.crop) / 2), round((image.height - spec.crop) / 2)
    if (left, top) != (0, 0) or image.size != (spec.crop, spec.crop):
        image = image.crop((left, top, left + spec.crop, top + spec.crop))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(spec.crop, spec.crop, 3)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB: 16-bit grey keeps its high byte, transparency is laid on white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255, which turns a 16-bit picture white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Undecodable("image has floating-point pixels, whose scale is not told; 8 or 16 bits a channel are decoded")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return on_white(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """RGBA to RGB."""
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        flat.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return flat
