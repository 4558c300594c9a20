"""Pictures made wrong in every way that files are: cut off, bits flipped, headers edited, two formats in one, bombs."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def originals(random: random.Random) -> list[bytes]:
    """Sound pictures in every format and several modes."""
    noise = np.random.default_rng(random.getrandbits(32)).integers(0, 255, (40, 50, 3), np.uint8)
    picture = Image.fromarray(noise)
    found = []
    for kind in KINDS:
        for mode in ("RGB", "L", "P"):
            buffer = io.BytesIO()
            converted = picture.convert("RGB" if mode == "P" and kind in ("JPEG", "WEBP") else mode)
            converted.save(buffer, kind, **({"save_all": True, "append_images": [converted] * 3} if kind in ("GIF", "WEBP", "TIFF") else {}))
            found.append(buffer.getvalue())
    return found


def cut(data: bytes, random: random.Random) -> bytes:
    return data[: random.randrange(1, len(data))]


def flip(data: bytes, random: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(random.randint(1, 20)):
        broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
    return bytes(broken)


def edit_header(data: bytes, random: random.Random) -> bytes:
    """Numbers that say how large something is, made extreme."""
    broken = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(min(64, len(broken) - 4))
        order = random.choice("<>")
        broken[place : place + 4] = struct.pack(f"{order}I", random.choice((0, 1, 2**15, 2**16, 2**31 - 1, 2**32 - 1, random.getrandbits(32))))
    return bytes(broken)


def polyglot(data: bytes, random: random.Random) -> bytes:
    other = random.choice([b"%PDF-1.7\n", b"PK\x03\x04", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", b"\x7fELF", b"#!/bin/sh\n", data])
    return random.choice([other + data, data + other, data[:20] + other + data[20:]])


def bomb(data: bytes, random: random.Random) -> bytes:
    """A PNG of few bytes that is large, or says so, or is a long strip."""
    width, height = random.choice([(2**31 - 1, 2**31 - 1), (100_000, 100_000), (20_000_000, 2), (2, 20_000_000), (6000, 6000), (1, 1), (0, 5)])
    depth, colour = random.choice([(8, 2), (1, 0), (16, 6), (8, 3)])
    pixels = zlib.compress(bytes(random.choice([100, 1_000_000, 5_000_000])))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"zTXt", b"a\0\0" + pixels),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def repeat_scans(data: bytes, random: random.Random) -> bytes:
    """A progressive JPEG that takes a thousand times as long as its size and pixels say."""
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, "JPEG", progressive=True)
    sound = buffer.getvalue()
    last = sound.rindex(b"\xff\xda")
    return sound[:-2] + sound[last:-2] * random.choice([1, 30, 2000]) + sound[-2:]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (cut, flip, edit_header, polyglot, bomb, repeat_scans)


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """So many of them, the same for the same seed."""
    chance = random.Random(seed)
    sound = originals(chance)
    for place in range(count):
        yield MUTATIONS[place % len(MUTATIONS)](chance.choice(sound), chance)
