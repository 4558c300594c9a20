"""POST /predict: pictures in, classes and OOD decisions out."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.classify import classify
from service.context import context_of, timing_of
from service.counting import Counting
from service.errors import documented
from service.intake import IMAGE_TYPES, TIMEOUT_HEADER, read_deadline, read_question, read_uploads
from service.model import Model
from service.schemas import Answer, Question, example_answer

router = APIRouter()
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **dict.fromkeys(IMAGE_TYPES, BINARY),
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "additionalProperties": False,
                "properties": {"images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}, "minItems": 1}},
            },
            "example": {"images": ["iVBORw0KGgo…"]},
        },
    },
}
# Written out here and read by hand: FastAPI's own reading of five optional parameters costs as much as the rest of the route.
PARAMETERS = [
    {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
    for name, schema in Question.model_json_schema()["properties"].items()
]
PARAMETERS.append(
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "required": False,
        "description": "answer within so many milliseconds or not at all; counts if it is less than the server's own deadline",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
)
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Every image answered, in the order sent. A rejected image is an answer, not an error.",
        "content": {"application/json": {"example": example_answer()}},
        "headers": {
            "X-Request-ID": {"schema": {"type": "string"}, "description": "yours, if you sent a sane one"},
            "Server-Timing": {"schema": {"type": "string"}, "description": "decode, queue and infer, in milliseconds"},
            "X-OOD-Rejected": {"schema": {"type": "string", "enum": ["true", "false"]}, "description": "only with a single image"},
        },
    },
    **documented(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504),
}


@router.post(
    "/predict",
    response_model=Answer,
    responses=ANSWERED,
    openapi_extra={"requestBody": BODY, "parameters": PARAMETERS},
    summary="Classify images, or say so if unsure",
)
async def predict(request: Request) -> Response:
    context, question = context_of(request), read_question(request)
    deadline = read_deadline(request, context.settings)
    with context.repository.find(question.model, question.version) as model:
        return await answer(request, model, question, deadline)


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """The same as an ASGI application of its own. What it raises is for whoever calls it to answer."""
    response = await predict(Request(scope, receive, send))
    await response(scope, receive, send)


async def answer(request: Request, model: Model, question: Question, deadline: float) -> Response:
    arrived, timing, context = time.monotonic(), timing_of(request), context_of(request)
    timing.model, timing.version = model.name, model.version
    choice = model.choose(question.postprocessor, question.alpha)
    timing.postprocessor = choice.postprocessor
    top_k = model.check_top_k(question.top_k)
    model.batcher.refuse_when_full()
    uploads = await read_uploads(request, context.settings, deadline)
    judged = await classify(request, model, uploads, arrived, deadline)
    inferred = time.monotonic()
    verdict = model.decide(judged, choice)
    found = model.answer(judged.probabilities, judged.scores, verdict, choice, top_k, [upload.filename for upload in uploads])
    headers = {"X-OOD-Rejected": "true" if found["predictions"][0]["ood"]["rejected"] else "false"} if len(uploads) == 1 else None
    content = to_json(found)
    timing.encode = time.monotonic() - inferred
    return Response(content, 200, headers, "application/json", Counting(request, model, choice, verdict, judged, uploads))
