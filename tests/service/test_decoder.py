import asyncio
import gc
from collections.abc import Sequence

import numpy as np
import pytest

from service.bundle.preprocess import InputSpec, Pixels, TooManyPixels, UnknownFormat
from service.decoder import Decoder, RefusedImage, Upload
from tests.bundles import SIZE, pixels, png

SPEC = InputSpec(size=SIZE, resize=SIZE, crop=SIZE)


def decode(*uploads: Upload, max_pixels: int = 10_000) -> Sequence[Pixels]:
    with Decoder(2, max_pixels) as decoder:
        return asyncio.run(decoder.decode(uploads, SPEC))


def test_pictures_come_back_in_the_order_they_were_given() -> None:
    images = pixels(20, 6)
    np.testing.assert_array_equal(np.stack(decode(*(Upload(png(image)) for image in images))), images)


def test_the_first_bad_picture_is_named_by_position_and_file() -> None:
    good = Upload(png(pixels(1, 6)[0]), "good.png")
    with pytest.raises(RefusedImage, match=r"image 2 of 4 \(bad.png\): the 5 bytes are none") as refused:
        decode(good, Upload(b"hello", "bad.png"), good, Upload(b"", "worse.png"))
    assert isinstance(refused.value.cause, UnknownFormat)
    assert (refused.value.position, refused.value.filename) == (2, "bad.png")


def test_what_the_others_raised_is_not_reported_as_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RefusedImage):
        decode(*[Upload(b"hello")] * 10)
    gc.collect()
    assert caplog.records == []


def test_the_limit_of_pixels_is_the_decoder_s() -> None:
    with pytest.raises(RefusedImage) as refused:
        decode(Upload(png(pixels(1, 6)[0])), max_pixels=SIZE * SIZE - 1)
    assert isinstance(refused.value.cause, TooManyPixels)
