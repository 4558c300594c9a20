"""A body of multipart/form-data -> encoded pictures, as it arrives."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.decoder import Upload

# Parts that are no images: more than any form has. The parser itself limits the headers of each.
MAX_FIELDS = 100
# Of a header: python-multipart looks through what is left of it for each, so thousands of them take seconds.
MAX_PARAMETERS = 200


class MalformedBody(Exception):
    """The body is not what its content type says, or holds no picture."""


class TooManyImages(Exception):
    """More pictures than max_images_per_request."""


@dataclass
class Parts:
    """Collects the parts of a multipart body as python-multipart finds them.

    starlette's own parser limits neither the size nor, before they are spooled to disk, the number of file parts.
    """

    max_images: int
    uploads: list[Upload] = field(default_factory=list)
    count: int = 0
    ended: bool = False
    header: bytes = b""
    value: bytes = b""
    disposition: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)

    def on_part_begin(self) -> None:
        self.count += 1
        if self.count > self.max_images + MAX_FIELDS:
            raise MalformedBody(f"the multipart body has more than {self.max_images + MAX_FIELDS} parts")
        self.disposition = {}
        self.data = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def on_header_end(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = parse_parameters(self.value)
        self.header = self.value = b""

    def on_headers_finished(self) -> None:
        if self.named == b"file" and len(self.uploads) == self.max_images:
            raise TooManyImages(f"the body holds more than {self.max_images} images, which is the most for one request")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]

    def on_part_end(self) -> None:
        filename = self.disposition.get(b"filename")
        name = filename.decode("utf-8", "replace") if filename else None
        if self.named == b"file":
            if not self.data:
                raise MalformedBody(f"image {len(self.uploads) + 1}{f' ({name})' if name else ''} is empty")
            self.uploads.append(Upload(bytes(self.data), name))
        elif filename is not None:
            raise MalformedBody(f"part {self.named.decode('utf-8', 'replace')!r} holds a file; parts that hold images must be named 'file'")

    def on_end(self) -> None:
        self.ended = True

    @property
    def named(self) -> bytes:
        return self.disposition.get(b"name", b"")


def parse_parameters(header: bytes) -> dict[bytes, bytes]:
    if header.count(b";") > MAX_PARAMETERS:
        raise MalformedBody(f"a header of the multipart body, or its content type, has more than {MAX_PARAMETERS} semicolons")
    return parse_options_header(header)[1]


async def read_multipart(body: AsyncIterable[bytes], content_type: str, max_images: int) -> list[Upload]:
    boundary = parse_parameters(content_type.encode("latin-1")).get(b"boundary")
    if not boundary:
        raise MalformedBody("the content type multipart/form-data names no boundary")
    parts = Parts(max_images)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.on_part_begin,
                "on_header_field": parts.on_header_field,
                "on_header_value": parts.on_header_value,
                "on_header_end": parts.on_header_end,
                "on_headers_finished": parts.on_headers_finished,
                "on_part_data": parts.on_part_data,
                "on_part_end": parts.on_part_end,
                "on_end": parts.on_end,
            },
        )
        async for chunk in body:
            if chunk:
                parser.write(chunk)
    except FormParserError as exc:
        raise MalformedBody(f"the multipart body is malformed: {exc}") from None
    if not parts.ended:
        raise MalformedBody("the multipart body is truncated: its closing boundary is missing")
    if not parts.uploads:
        raise MalformedBody("the multipart body has no part named 'file'")
    return parts.uploads
