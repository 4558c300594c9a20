"""The Open Inference Protocol's tensors: a request's body -> pictures and wishes, outputs -> a response's body.

Both as JSON and with the binary extension, where the tensors' bytes follow the JSON. Knows nothing of HTTP or models.
"""

import base64
import binascii
import struct
from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.preprocess import Pixels
from service.decoder import Upload

IMAGES = "images"
OUTPUTS = {"probabilities": "FP32", "scores": "FP32", "p_values": "FP64", "rejected": "BOOL"}
HEADER_LENGTH = "Inference-Header-Content-Length"
# A number in a request has fewer: Python reads none of more than 4300.
DIGITS = 19


Whole = Annotated[int, Field(ge=0, lt=10 ** (DIGITS - 1))]


class InvalidTensor(Exception):
    """The request is no inference request, or its tensors are not those that the model takes and gives."""


class Part(BaseModel):
    """What the parts of a request share: frozen, and no key that would be passed over in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputParameters(Part):
    """content_type is MLServer's hint to itself, and changes nothing here."""

    binary_data_size: Whole | None = None
    content_type: str | None = None


class Input(Part):
    """One tensor: `data` holds it, flat or nested, unless it follows the JSON."""

    name: Literal["images"]
    shape: Annotated[list[Whole], Field(min_length=1, max_length=4)]
    datatype: Literal["UINT8", "BYTES"]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(Part):
    """binary_data: after the JSON instead of in it."""

    binary_data: bool | None = None


class Output(Part):
    """One tensor that is asked for."""

    name: Literal["probabilities", "scores", "p_values", "rejected"]
    parameters: OutputParameters = OutputParameters()


class Parameters(Part):
    """postprocessor and alpha as in a query of /predict. timeout in microseconds; priority is accepted and changes nothing."""

    postprocessor: str | None = None
    alpha: float | None = None
    timeout: Whole | None = None
    priority: Whole | None = None
    content_type: str | None = None
    binary_data_output: bool = False


class InferenceRequest(Part):
    """The JSON of a request, its tensor's bytes among it or beside it."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[Output], Field(max_length=len(OUTPUTS))] = []


def split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON, and the bytes after it. header_length: how long the JSON is, if it is not all. Raises InvalidTensor."""
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < DIGITS and 0 < int(header_length) <= len(body)):
        raise InvalidTensor(f"{HEADER_LENGTH} is {header_length[:DIGITS]!r}, it must be between 1 and {len(body)}, the length of the body")
    end = int(header_length)
    return body[:end], body[end:]


def read_request(header: bytes) -> InferenceRequest:
    """Raises InvalidTensor."""
    try:
        return InferenceRequest.model_validate_json(header)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise InvalidTensor(f"{'.'.join(map(str, error['loc'])) or 'the request'}: {error['msg']}") from None


def read_images(tensor: Input, binary: bytes, size: int) -> list[Upload] | Pixels:
    """The pictures: encoded ones of a BYTES tensor (N,) or (N, 1), or the pixels of a UINT8 tensor (N, size, size, 3).

    In JSON, encoded pictures are base64. Raises InvalidTensor.
    """
    if (length := tensor.parameters.binary_data_size) is not None:
        if tensor.data is not None:
            raise InvalidTensor("images has both data and binary_data_size, it must have one of them")
        if length != len(binary):
            raise InvalidTensor(f"images has binary_data_size {length}, but {len(binary)} bytes follow the JSON")
    elif tensor.data is None:
        raise InvalidTensor("images has neither data nor binary_data_size")
    elif binary:
        raise InvalidTensor(f"{len(binary)} bytes follow the JSON, but images has no binary_data_size")
    count = tensor.shape[0]
    if not count:
        raise InvalidTensor("images is empty")
    if tensor.datatype == "BYTES":
        if tensor.shape[1:] not in ([], [1]):
            raise InvalidTensor(f"images is BYTES{tensor.shape}, it must be BYTES[N] or BYTES[N, 1]")
        uploads = from_base64(tensor.data, count) if tensor.data is not None else from_lengths(binary, count)
        if len(uploads) != count:
            raise InvalidTensor(f"images has {len(uploads)} elements, its shape {tensor.shape} has {count}")
        return uploads
    if tensor.shape[1:] != [size, size, 3]:
        raise InvalidTensor(f"images is UINT8{tensor.shape}, it must be UINT8[N, {size}, {size}, 3]")
    pixels = from_numbers(tensor.data) if tensor.data is not None else np.frombuffer(binary, np.uint8)
    if len(pixels) != prod(tensor.shape):
        raise InvalidTensor(f"images has {len(pixels)} elements, its shape {tensor.shape} has {prod(tensor.shape)}")
    return pixels.reshape(tensor.shape)


def from_numbers(data: list[Any]) -> Pixels:
    """Numbers, flat or nested, as pixels (n,)."""
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) and len(row) == len(data[0]) for row in data):
            raise InvalidTensor("images: data is ragged: its rows are not all as long as the first one")
        data = list(chain.from_iterable(data))
    try:
        if any(isinstance(value, bool) for value in data):
            raise TypeError
        # Not np.asarray, which gives every element the room of the longest text among them.
        return np.frombuffer(bytes(data), np.uint8)
    except (TypeError, ValueError, OverflowError):
        raise InvalidTensor("images: data of a UINT8 tensor must be whole numbers from 0 to 255") from None


def from_base64(data: list[Any], count: int) -> list[Upload]:
    uploads: list[Upload] = []
    for position, text in enumerate((entry for row in data for entry in (row if isinstance(row, list) else [row])), start=1):
        if position > count:
            raise InvalidTensor(f"images has more elements than its shape has, {count}")
        try:
            uploads.append(Upload(base64.b64decode(text, validate=True)))
        except (TypeError, ValueError, binascii.Error):
            raise InvalidTensor(f"images: element {position} of BYTES data in JSON must be a picture in base64") from None
    return uploads


def from_lengths(binary: bytes, count: int) -> list[Upload]:
    """Elements of a binary BYTES tensor: each its length in four bytes, little-endian, and then itself."""
    uploads: list[Upload] = []
    place = 0
    while place < len(binary):
        if len(uploads) == count:
            raise InvalidTensor(f"images has more elements than its shape has, {count}")
        start = place + 4
        length = struct.unpack_from("<I", binary, place)[0] if start <= len(binary) else 0
        place = start + length
        if place > len(binary):
            raise InvalidTensor(f"images: element {len(uploads) + 1} of the BYTES tensor ends {place - len(binary)} bytes after the body")
        uploads.append(Upload(binary[start:place]))
    return uploads


def write_response(about: dict[str, Any], arrays: Mapping[str, NDArray[Any]], asked: InferenceRequest) -> tuple[bytes, int | None]:
    """The body, and how long its JSON is where tensors follow it. about: what the response says beside its outputs."""
    wanted = asked.outputs or [Output(name=name) for name in OUTPUTS]  # type: ignore[arg-type]
    outputs, buffers = [], []
    for output in wanted:
        array = arrays[output.name]
        entry: dict[str, Any] = {"name": output.name, "datatype": OUTPUTS[output.name], "shape": list(array.shape)}
        binary = output.parameters.binary_data
        if asked.parameters.binary_data_output if binary is None else binary:
            buffers.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            # As text, float32's shortest decimal form.
            entry["data"] = [float(str(value)) for value in array.ravel()] if array.dtype == np.float32 else array.ravel().tolist()
        outputs.append(entry)
    header = pydantic_core.to_json({**about, "outputs": outputs})
    return b"".join([header, *buffers]), len(header) if buffers else None
