"""A request's body -> encoded pictures, in any of its three forms, counted while it is read and refused as early as can be."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.context import context_of, timing_of
from service.decoder import Upload
from service.multipart import MalformedBody, TooManyImages, read_multipart
from service.place import DeadlinePassed
from service.schemas import Images, Question
from service.settings import Settings

IMAGE_TYPES = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/bmp",
    "image/gif",
    "image/tiff",
    "application/octet-stream",
)
ACCEPTED = (*IMAGE_TYPES, "multipart/form-data", "application/json")
# Above this, parsing would be felt by the other requests on the event loop.
LARGE_BYTES = 64 * 1024
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TIMEOUT_FIELD = TIMEOUT_HEADER.lower().encode()
NOTHING_ASKED = Question()


class BodyTooLarge(Exception):
    """More bytes than max_body_bytes."""


class BodyTooSlow(Exception):
    """The body has not arrived within body_timeout_ms."""


class BodyPastDeadline(DeadlinePassed):
    """The body has not arrived by the request's deadline."""


class InvalidParameter(Exception):
    """A query parameter that is unknown or of the wrong type."""


class UnsupportedContentType(Exception):
    """A content type other than the accepted ones."""


class UnsupportedEncoding(Exception):
    """A compressed body: its size could not be known before it is unpacked."""


def header(request: Request, name: bytes) -> str | None:
    """The first of this name, which is in lower case. Starlette's own mapping searches and decodes for as long as the body takes to be read."""
    scope = request.scope
    if (fields := scope.get("fields")) is None:
        fields = scope["fields"] = dict(reversed(scope["headers"]))
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")


def read_question(request: Request) -> Question:
    """The query parameters of a prediction. Raises InvalidParameter."""
    if not request.scope["query_string"]:
        return NOTHING_ASKED
    asked = dict(request.query_params)
    if len(asked) < len(request.query_params.multi_items()):
        raise InvalidParameter(f"a parameter is given twice in {request.url.query[:200]!r}")
    try:
        return Question.model_validate(asked)
    except ValidationError as exc:
        error = exc.errors()[0]
        name = str(error["loc"][0])
        if name not in Question.model_fields:
            raise InvalidParameter(f"there is no parameter {name!r}; there are {', '.join(Question.model_fields)}") from None
        raise InvalidParameter(f"{name} is {error['input']!r}: {error['msg']}") from None


def read_deadline(request: Request, settings: Settings) -> float:
    """When the answer is due, as time.monotonic() counts: request_deadline_ms from now, or sooner if the client asks. Raises InvalidParameter."""
    allowed = settings.request_deadline_ms
    if (asked := header(request, TIMEOUT_FIELD)) is not None:
        try:
            milliseconds = float(asked)
        except ValueError:
            milliseconds = math.nan
        if not milliseconds > 0:
            raise InvalidParameter(f"{TIMEOUT_HEADER} is {asked!r}, it must be a number of milliseconds above 0")
        allowed = min(allowed, milliseconds)
    return time.monotonic() + allowed / 1000


def arrived(receive: Receive) -> bool:
    """Whether the whole body has come, so that to receive it cannot take any time. False where nobody knows, as with a server that is not uvicorn."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and not cycle.more_body


async def read_uploads(request: Request, settings: Settings, deadline: float) -> list[Upload]:
    """The pictures of a request, at least one. Raises one of the exceptions above, DeadlinePassed, or starlette's ClientDisconnect."""
    content_type = header(request, b"content-type") or "application/octet-stream"
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ACCEPTED:
        raise UnsupportedContentType(f"content type {media_type!r} is not accepted, send one of {', '.join(ACCEPTED)}")
    body = Body(request, settings, deadline)
    if media_type == "multipart/form-data":
        uploads = await read_multipart(body, content_type, settings.max_images_per_request)
    elif media_type == "application/json":
        uploads = await read_json(await body.whole(), settings.max_images_per_request)
    else:
        uploads = [Upload(await body.whole())]
        if not uploads[0].data:
            raise MalformedBody("the body is empty, there is no image in it")
    return uploads


class Body:
    """A request's body, until it is more, or later, than allowed. Raises UnsupportedEncoding, BodyTooLarge, BodyTooSlow, BodyPastDeadline,
    TooManyBytes, or starlette's ClientDisconnect.
    """

    def __init__(self, request: Request, settings: Settings, deadline: float) -> None:
        if (encoding := (header(request, b"content-encoding") or "identity").lower()) != "identity":
            raise UnsupportedEncoding(f"content encoding {encoding!r} is not accepted, send the body as it is")
        self.receive = request.receive
        self.most = settings.max_body_bytes
        length = header(request, b"content-length") or ""
        if length.isdigit() and int(length) > self.most:
            raise BodyTooLarge(f"the body has {length} bytes, at most {self.most} are read")
        self.settings = settings
        self.bodies, self.timing = context_of(request).bodies, timing_of(request)
        self.deadline = deadline
        self.patience = time.monotonic() + settings.body_timeout_ms / 1000
        self.read = 0
        self.more = True

    async def chunk(self) -> bytes:
        """What has come next."""
        # A timer costs more than all the rest, and most bodies are here before they are asked for.
        message = await (self.receive() if arrived(self.receive) else self.patiently())
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        self.read += len(chunk)
        if self.read > self.most:
            raise BodyTooLarge(f"the body has more than {self.most} bytes, which is the most that is read")
        self.timing.body_bytes = self.read
        self.bodies.enter(len(chunk))
        return chunk

    async def patiently(self) -> Message:
        try:
            async with asyncio.timeout(min(self.patience, self.deadline) - time.monotonic()):
                return await self.receive()
        except TimeoutError:
            if self.deadline <= self.patience:
                raise BodyPastDeadline(f"the body has not arrived by the request's deadline, {self.read} bytes have") from None
            raise BodyTooSlow(f"the body has not arrived within {self.settings.body_timeout_ms:g} ms, {self.read} bytes have") from None

    async def whole(self) -> bytes:
        first = await self.chunk()
        return b"".join([first, *[chunk async for chunk in self]]) if self.more else first

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.more:
            yield await self.chunk()


async def read_json(body: bytes, max_images: int) -> list[Upload]:
    # base64 has no commas, so they count the images before anything is built from them.
    if body.count(b",") >= max_images:
        raise TooManyImages(f"the body holds more than {max_images} images, which is the most for one request")
    try:
        images = await asyncio.to_thread(Images.model_validate_json, body) if len(body) > LARGE_BYTES else Images.model_validate_json(body)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        if error["loc"][:1] == ("images",) and len(error["loc"]) > 1:
            raise MalformedBody(f"image {int(error['loc'][1]) + 1}: {error['msg']}") from None
        raise MalformedBody(f'the body must be {{"images": ["<base64>", …]}}: {error["msg"]}') from None
    for position, data in enumerate(images.images, start=1):
        if not data:
            raise MalformedBody(f"image {position} of {len(images.images)} is empty")
    return [Upload(data) for data in images.images]
