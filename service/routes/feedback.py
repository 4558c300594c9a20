"""POST /feedback: the truth about an image that was answered."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from service.context import context_of
from service.errors import documented
from service.feedback import Truth, UnknownRequest, WrongFeedback
from service.intake import Body
from service.multipart import MalformedBody
from service.schemas import Feedback, FeedbackReceipt

router = APIRouter()
BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": Feedback.model_json_schema(), "example": {"request_id": "4f2c…", "was_ood": True}}},
}


@router.post(
    "/feedback",
    response_model=FeedbackReceipt,
    responses=documented(400, 401, 404, 408, 413, 422, 504),
    openapi_extra={"requestBody": BODY},
    summary="Tell the truth about an answered image; told again, it replaces what was told before",
)
async def feedback(request: Request) -> Response:
    context = context_of(request)
    deadline = time.monotonic() + context.settings.request_deadline_ms / 1000
    body = await Body(request, context.settings, deadline).whole()
    try:
        told = Feedback.model_validate_json(body)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, error["loc"]))
        reason = error["msg"].removeprefix("Value error, ")
        raise MalformedBody(f'the body must be {{"request_id": …, "label" or "was_ood": …}}: {f"{where}: " if where else ""}{reason}') from None
    answered = context.recent.find(told.request_id)
    if answered is None:
        raise UnknownRequest(
            f"request {told.request_id} is not among the latest {context.settings.feedback_requests} that this server answered (feedback_requests)"
        )
    watch, images = answered.by, len(answered.rejected)
    about = watch.subject
    if all(model.watch is not watch for model in context.repository.loaded()):
        raise UnknownRequest(f"request {told.request_id} was answered by {about.model} version {about.version}, which is not loaded any more")
    position = told.position or 1
    if position > images or (told.position is None and images > 1):
        raise WrongFeedback(f"position is {told.position}, the request had {images} images: it must be between 1 and {images}")
    if told.label is not None and told.label not in watch.classes:
        raise WrongFeedback(f"label {told.label!r} is no class of {about.model}; if the image shows none of its classes, send was_ood: true instead")
    truth: Truth = "ood" if told.was_ood else "id"
    decision = answered.tell(position, truth, watch.tally)
    watch.changed = True
    receipt = FeedbackReceipt(request_id=told.request_id, model=about.model, version=about.version, position=position, truth=truth, decision=decision)
    return Response(receipt.model_dump_json(), media_type="application/json")
