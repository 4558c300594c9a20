"""A captured picture as it is kept: a PNG of its pixels, and beside it what was answered.

Not the bytes that came: from pixels alone there is nothing to strip. EXIF with its GPS, comments, ICC texts, thumbnails, further frames, colours
under transparency and what follows the picture's end are gone whatever the format, and what `decode` makes of the PNG is to the bit what it made
of the original: upright, 8-bit RGB, and only then resized. The price is size: a photograph takes several times the bytes of its JPEG.
"""

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from service.budget import Held, Kind
from service.bundle.decision import Guarantee, Scores
from service.bundle.manifest import Manifest
from service.bundle.preprocess import FORMATS, InputSpec, Pixels, to_rgb
from service.model import shortest

# A third less time than zlib's usual 6 takes, for a tenth more bytes.
COMPRESS_LEVEL = 1
# Of a class's name in a path: 60 characters take at most 240 bytes, and 255 are allowed.
LABEL_LENGTH = 60


class Sidecar(BaseModel):
    """What stands beside a picture. No file name and no address: they may say who sent it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: Literal[1] = 1
    request_id: str
    position: Annotated[int, Field(ge=1, description="of the picture in its request, from 1")]
    time: datetime
    model: str
    version: int
    postprocessor: str
    alpha: float
    guarantee: Guarantee
    label: str
    class_id: int
    probability: float
    p_value: float
    scores: Annotated[dict[str, float], Field(description="the raw score of every post-processor")]
    decision: Literal["accepted", "rejected"]
    why: Annotated[Kind, Field(description="rejected: it was; control: it was accepted, and chance chose it")]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answered picture that may be kept. Holds neither the request nor the model: both may be gone when its turn comes."""

    picture: bytes | Pixels
    kind: Kind
    key: int
    request_id: str
    position: int
    time: float
    manifest: Manifest
    postprocessor: str
    alpha: float
    guarantee: Guarantee
    p_value: float
    probabilities: Scores
    scores: Scores

    @property
    def class_id(self) -> int:
        return int(self.probabilities.argmax())

    def held(self) -> Held:
        """Where it goes."""
        when = datetime.fromtimestamp(self.time, UTC)
        label = re.sub(r"[^\w-]", "_", self.manifest.classes[self.class_id])[:LABEL_LENGTH]
        return Held(self.manifest.name, f"{when:%Y-%m-%d}", self.kind, label, f"{when:%H%M%S}", self.key)

    def png(self) -> bytes:
        """Takes as long as decoding and a PNG's encoding do: not for the event loop."""
        if isinstance(self.picture, bytes):
            return plain_picture(self.picture)
        return plain_pixels(self.picture, self.manifest.input)

    def sidecar(self) -> Sidecar:
        manifest, class_id = self.manifest, self.class_id
        return Sidecar(
            request_id=self.request_id,
            position=self.position,
            time=datetime.fromtimestamp(self.time, UTC),
            model=manifest.name,
            version=manifest.version,
            postprocessor=self.postprocessor,
            alpha=self.alpha,
            guarantee=self.guarantee,
            label=manifest.classes[class_id],
            class_id=class_id,
            probability=shortest(self.probabilities[class_id]),
            p_value=self.p_value,
            scores={key: shortest(score) for key, score in zip(manifest.postprocessors, self.scores, strict=True)},
            decision="rejected" if self.kind == "rejected" else "accepted",
            why=self.kind,
        )


def plain_picture(data: bytes) -> bytes:
    """An encoded picture that `decode` accepted -> a PNG in which it finds the same pixels."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return encode(np.asarray(to_rgb(ImageOps.exif_transpose(image))))


def plain_pixels(pixels: Pixels, spec: InputSpec) -> bytes:
    """Pixels of the network's size -> a PNG in which `decode` finds them: where it would resize and crop, its edges are repeated outwards,
    so that it cuts out just these.
    """
    before = round((spec.resize - spec.crop) / 2)
    sides = (before, spec.resize - spec.crop - before)
    return encode(np.pad(pixels, (sides, sides, (0, 0)), mode="edge"))


def encode(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()
