"""POST /predict: pictures in, classes and OOD decisions out."""

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.classify import classify, count
from service.context import context_of
from service.errors import documented
from service.intake import IMAGE_TYPES, read_question, read_uploads
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
    **documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
}


@router.post(
    "/predict",
    response_model=Answer,
    responses=ANSWERED,
    openapi_extra={"requestBody": BODY, "parameters": PARAMETERS},
    summary="Classify images, or say so if unsure",
)
async def predict(request: Request) -> Response:
    arrived = time.monotonic()
    context = context_of(request)
    settings = context.settings
    question = read_question(request)
    chosen = context.repository.find(question.model, question.version)
    choice = chosen.choose(question.postprocessor, question.alpha)
    top_k = chosen.check_top_k(question.top_k)
    chosen.batcher.refuse_when_full()
    uploads = await read_uploads(request, settings.max_body_bytes, settings.max_images_per_request)
    probabilities, scores = await classify(request, chosen, uploads, arrived, arrived + settings.request_deadline_ms / 1000)
    inferred = time.monotonic()
    verdict = chosen.judge(scores, choice)
    answer = chosen.answer(probabilities, scores, verdict, choice, top_k, [upload.filename for upload in uploads])
    count(request, chosen, choice, verdict, probabilities, scores)
    body = answer.__pydantic_serializer__.to_json(answer)
    headers = {"X-OOD-Rejected": "true" if answer.predictions[0].ood.rejected else "false"} if len(uploads) == 1 else None
    context.metrics.stage["encode"].observe(time.monotonic() - inferred)
    return Response(body, 200, headers, "application/json")
