"""/v2: the Open Inference Protocol, version 2, with its binary extension: what Triton, KServe and MLServer speak."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service import __version__
from service.classify import classify
from service.context import context_of, timing_of
from service.counting import Counting
from service.errors import documented
from service.intake import LARGE_BYTES, Body, read_deadline
from service.model import Model
from service.multipart import TooManyImages
from service.place import Array
from service.repository import UnknownModel
from service.tensors import DIGITS, HEADER_LENGTH, IMAGES, OUTPUTS, InvalidTensor, read_images, read_request, split, write_response

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["inputs"]},
            "example": {"inputs": [{"name": IMAGES, "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo…"]}]},
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
# Values in a request's JSON that are no pixels are fewer.
BESIDE = 1000
# Read by hand, as /predict reads its query.
IN_PATH = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in ("model", "version")]
PATHS = {"/models/{model}": IN_PATH[:1], "/models/{model}/versions/{version}": IN_PATH}


def named(request: Request) -> tuple[str, int | None]:
    """The model and version that the path names. Raises UnknownModel."""
    name, version = request.path_params["model"], request.path_params.get("version")
    if version is not None and not (version.isascii() and version.isdigit() and len(version) < DIGITS):
        raise UnknownModel(f"{name} has no version {version[:DIGITS]!r}: versions are numbers")
    return name, None if version is None else int(version)


def find(request: Request) -> Model:
    """The model that the path names. Raises NotReady or UnknownModel."""
    return context_of(request).repository.find(*named(request))


@router.get("", summary="The server's name, version and extensions")
async def server() -> Response:
    return JSONResponse({"name": "oodgate", "version": __version__, "extensions": ["binary_tensor_data"]})


@router.get("/health/live", responses=documented(500), summary="As GET /livez")
async def live(request: Request) -> Response:
    context_of(request).repository.check_alive()
    return JSONResponse({"live": True})


@router.get("/health/ready", responses=documented(503), summary="As GET /readyz")
async def ready(request: Request) -> Response:
    context_of(request).check_ready()
    return JSONResponse({"ready": True})


async def model_ready(request: Request) -> Response:
    """Whether this model is loaded, checked and warm."""
    return JSONResponse({"name": find(request).name, "ready": True})


async def model_metadata(request: Request) -> Response:
    """The model's inputs and outputs. `images` may also be BYTES[N]: encoded pictures."""
    model = find(request)
    size = model.manifest.input.size
    widths = {"probabilities": [len(model.manifest.classes)], "scores": [len(model.manifest.postprocessors)]}
    outputs = [{"name": name, "datatype": datatype, "shape": [-1, *widths.get(name, [])]} for name, datatype in OUTPUTS.items()]
    return JSONResponse(
        {
            "name": model.name,
            "versions": [str(version) for version in context_of(request).repository.models[model.name]],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": IMAGES, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
            "outputs": outputs,
        }
    )


async def infer(request: Request) -> Response:
    """Pictures as UINT8 or BYTES tensor in, probabilities, scores, p-values and decisions out. Parameters: postprocessor, alpha, timeout."""
    context = context_of(request)
    deadline = read_deadline(request, context.settings)
    with find(request) as model:
        return await answer(request, model, deadline)


async def answer(request: Request, model: Model, deadline: float) -> Response:
    arrived, timing = time.monotonic(), timing_of(request)
    timing.model, timing.version = model.name, model.version
    context = context_of(request)
    settings = context.settings
    model.batcher.refuse_when_full()
    body = await Body(request, settings, deadline).whole()
    size = model.manifest.input.size
    header, binary = split(body, request.headers.get(HEADER_LENGTH))
    # base64 has no commas, so they count the values before anything is built from them.
    if header.count(b",") > (most := settings.max_images_per_request * size * size * 3 + BESIDE):
        allowed = f"images must be UINT8[N, {size}, {size}, 3] or BYTES[N], N at most {settings.max_images_per_request}"
        raise InvalidTensor(f"the JSON has more than {most} values: {allowed}")
    asked = await asyncio.to_thread(read_request, header) if len(header) > LARGE_BYTES else read_request(header)
    (tensor,) = asked.inputs
    if tensor.shape[0] > settings.max_images_per_request:
        raise TooManyImages(f"images has {tensor.shape[0]} images, at most {settings.max_images_per_request} are answered in one request")
    choice = model.choose(asked.parameters.postprocessor, asked.parameters.alpha)
    timing.postprocessor = choice.postprocessor
    images = await asyncio.to_thread(read_images, tensor, binary, size) if len(header) > LARGE_BYTES else read_images(tensor, binary, size)
    if asked.parameters.timeout:
        # Triton's clients count in microseconds, 0 for none.
        deadline = min(deadline, arrived + asked.parameters.timeout / 1e6)
    judged = await classify(request, model, images, arrived, deadline)
    inferred = time.monotonic()
    verdict = model.decide(judged, choice)
    about = {
        "model_name": model.name,
        "model_version": str(model.version),
        "parameters": {"postprocessor": choice.postprocessor, "alpha": choice.gate.alpha, "guarantee": choice.gate.guarantee},
    }
    if asked.id is not None:
        about["id"] = asked.id
    arrays: dict[str, Array] = {
        "probabilities": judged.probabilities,
        "scores": judged.scores,
        "p_values": verdict.p_values,
        "rejected": verdict.rejected,
    }
    content, length = write_response(about, arrays, asked)
    timing.encode = time.monotonic() - inferred
    counting = Counting(request, model, choice, verdict, judged, images)
    if length is None:
        return Response(content, media_type="application/json", background=counting)
    return Response(content, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream", background=counting)


for place, parameters in PATHS.items():
    about, not_found = {"parameters": parameters}, documented(404, 503)
    router.get(place, responses=not_found, openapi_extra=about, name=f"metadata of {place}")(model_metadata)
    router.get(f"{place}/ready", responses=not_found, openapi_extra=about, name=f"readiness of {place}")(model_ready)
    router.post(
        f"{place}/infer",
        responses=documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra=about | {"requestBody": BODY},
        name=f"infer with {place}",
    )(infer)
