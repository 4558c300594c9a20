import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from service.bundle.preprocess import InputSpec, Pixels, TooManyPixels, UnknownFormat
from service.decoder import Decoder, RefusedImage, Upload
from service.place import DeadlinePassed, Departed, Place
from tests.bundles import SIZE, pixels, png

SPEC = InputSpec(size=SIZE, resize=SIZE, crop=SIZE)


def decode(*uploads: Upload, max_pixels: int = 10_000) -> Sequence[Pixels]:
    with Decoder(2, max_pixels) as decoder:
        return asyncio.run(decoder.decode(uploads, SPEC))


def test_pictures_come_back_in_the_order_they_were_given() -> None:
    images = pixels(20, 6)
    np.testing.assert_array_equal(np.stack(decode(*(Upload(png(image)) for image in images))), images)


def test_every_format_is_imported_before_the_first_picture_comes() -> None:
    script = """
import sys
from PIL import Image
from service.decoder import Decoder
with Decoder(1, 100):
    before = set(sys.modules)
    Image.init()
assert set(sys.modules) == before
assert 'PIL.WebPImagePlugin' in before
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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


def test_a_small_request_is_decoded_before_a_large_one_ends() -> None:
    async def test() -> None:
        ended: list[str] = []
        picture = Upload(png(np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)))

        async def request(name: str, count: int) -> None:
            await decoder.decode([picture] * count, SPEC)
            ended.append(name)

        with Decoder(2, 1_000_000) as decoder:
            large = asyncio.create_task(request("large", 30))
            await asyncio.sleep(0.01)
            await asyncio.gather(large, *(request("small", 1) for _ in range(3)))
        assert ended == ["small", "small", "small", "large"]

    asyncio.run(test())


@pytest.mark.parametrize(("end", "told"), [(Place.expire, DeadlinePassed), (Place.abandon, Departed)])
def test_decoding_ends_with_the_caller_s_place(end: Callable[[Place], None], told: type[Exception]) -> None:
    async def test() -> None:
        place = Place(50, 0.0, asyncio.get_running_loop().create_future())
        picture = Upload(png(np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)))
        with Decoder(2, 1_000_000) as decoder:
            asyncio.get_running_loop().call_later(0.02, end, place)
            started = time.monotonic()
            with pytest.raises(told):
                await decoder.decode([picture] * 1000, SPEC, place)
            assert time.monotonic() - started < 5

    asyncio.run(test())


def test_a_small_picture_goes_before_photographs_that_came_earlier() -> None:
    async def test() -> None:
        ended: list[str] = []
        random = np.random.default_rng(0)
        large, small = (Upload(png(random.integers(0, 255, (side, side, 3), np.uint8))) for side in (1000, 100))

        async def request(name: str, picture: Upload) -> None:
            await decoder.decode([picture], SPEC)
            ended.append(name)

        with Decoder(2, 1_000_000) as decoder:
            photographs = [asyncio.create_task(request("large", large)) for _ in range(20)]
            await asyncio.sleep(0.001)
            await asyncio.gather(*photographs, request("small", small))
        assert ended.index("small") < 5

    asyncio.run(test())
