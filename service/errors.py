"""The one table from exceptions to answers: status, stable problem type, and what is counted (RFC 9457)."""

import logging
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.admission import QueueFull, TooManyBytes
from service.bundle.decision import TooFewCalibrationImages
from service.bundle.preprocess import InvalidImage, TooManyPixels, Undecodable, UnknownFormat
from service.context import context_of, request_id_of, timing_of
from service.decoder import RefusedImage
from service.feedback import UnknownRequest, WrongFeedback
from service.intake import (
    ACCEPTED,
    BodyPastDeadline,
    BodyTooLarge,
    BodyTooSlow,
    InvalidParameter,
    UnsupportedContentType,
    UnsupportedEncoding,
)
from service.keys import Forbidden, MissingKey
from service.model import AlphaOutOfRange, TopKOutOfRange, UnknownPostprocessor
from service.multipart import MalformedBody, TooManyImages
from service.place import DeadlinePassed, Departed, InferenceFailed
from service.repository import DeadBatcher, NotReady, ReloadFailed, UnknownModel
from service.schemas import Problem
from service.tensors import InvalidTensor

log = logging.getLogger(__name__)
PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """What one kind of error is called. `shed`: the reason under which it is counted as turned away."""

    status: int
    name: str
    title: str
    shed: str | None = None


INTERNAL = Kind(500, "internal", "Internal error")
TABLE: dict[type[Exception], Kind] = {
    MalformedBody: Kind(400, "malformed-body", "The body cannot be read"),
    InvalidTensor: Kind(400, "invalid-tensor", "The tensors are not those of the model"),
    ClientDisconnect: Kind(400, "truncated-body", "The body ended too early"),
    MissingKey: Kind(401, "missing-key", "A key is needed"),
    Forbidden: Kind(403, "forbidden", "The key does not open this"),
    UnknownModel: Kind(404, "unknown-model", "No such model is loaded"),
    UnknownRequest: Kind(404, "unknown-request", "No such request is remembered"),
    BodyTooSlow: Kind(408, "body-too-slow", "The body took too long to arrive", shed="slow_body"),
    ReloadFailed: Kind(409, "reload-failed", "The new version was refused, the old one serves on"),
    BodyTooLarge: Kind(413, "body-too-large", "The body is too large"),
    TooManyImages: Kind(413, "too-many-images", "Too many images in one request"),
    TooManyPixels: Kind(413, "too-many-pixels", "The image has too many pixels"),
    UnsupportedContentType: Kind(415, "unsupported-content-type", "The content type is not accepted"),
    UnsupportedEncoding: Kind(415, "unsupported-encoding", "Compressed bodies are not accepted"),
    UnknownFormat: Kind(415, "unsupported-image-format", "The bytes are no accepted image format"),
    Undecodable: Kind(422, "undecodable-image", "The image cannot be decoded"),
    InvalidImage: Kind(422, "invalid-image", "The image cannot be answered"),
    UnknownPostprocessor: Kind(422, "unknown-postprocessor", "The model has no such post-processor"),
    AlphaOutOfRange: Kind(422, "alpha-out-of-range", "The alpha is not allowed"),
    TooFewCalibrationImages: Kind(422, "alpha-not-promised", "Too few calibration images for this alpha"),
    TopKOutOfRange: Kind(422, "top-k-out-of-range", "There are not so many classes"),
    InvalidParameter: Kind(422, "invalid-parameter", "A parameter is invalid"),
    WrongFeedback: Kind(422, "wrong-feedback", "The feedback does not fit the request"),
    RequestValidationError: Kind(422, "invalid-request", "The request is invalid"),
    TooManyBytes: Kind(429, "too-many-bytes", "Too many bytes are being sent at once", shed="too_many_bytes"),
    QueueFull: Kind(429, "queue-full", "Too many images are waiting", shed="queue_full"),
    # Never delivered: 499 is what nginx logs for a client that has gone.
    Departed: Kind(499, "client-closed-request", "The client has gone"),
    InferenceFailed: Kind(500, "inference-failed", "The model could not be run"),
    DeadBatcher: Kind(500, "dead-batcher", "A worker thread has ended"),
    NotReady: Kind(503, "not-ready", "No model is ready yet", shed="not_ready"),
    DeadlinePassed: Kind(504, "deadline-passed", "The deadline passed while waiting", shed="deadline"),
}
# What reaches no route at all.
MALFORMED_REQUEST = Kind(400, "malformed-request", "The request is no HTTP/1.1")
HEAD_TOO_LARGE = Kind(431, "head-too-large", "The request's head is too large")
ROUTING = {404: Kind(404, "unknown-route", "No such route"), 405: Kind(405, "method-not-allowed", "The route has no such method")}


def kind_of(exc: Exception) -> Kind:
    if isinstance(exc, RefusedImage):
        return kind_of(exc.cause)
    if isinstance(exc, HTTPException):
        return ROUTING.get(exc.status_code) or Kind(exc.status_code, "http", HTTPStatus(exc.status_code).phrase)
    return next((TABLE[base] for base in type(exc).__mro__ if base in TABLE), INTERNAL)


def headers_of(exc: Exception) -> dict[str, str]:
    """What a client needs to do better next time."""
    match exc:
        case QueueFull() | NotReady():
            return {"Retry-After": str(exc.retry_after_seconds)}
        case MissingKey():
            return {"WWW-Authenticate": "Bearer"}
        case BodyTooSlow() | BodyPastDeadline():
            # Who is so slow would keep the connection for the rest of the body.
            return {"Connection": "close"}
        case UnsupportedContentType() | RefusedImage(cause=UnknownFormat()):
            return {"Accept-Post": ", ".join(ACCEPTED)}
        case UnsupportedEncoding():
            return {"Accept-Encoding": "identity"}
        case HTTPException(headers=headers):
            return dict(headers or {})
    return {}


def detail_of(exc: Exception, request: Request) -> str:
    match exc:
        case RequestValidationError():
            error = exc.errors()[0]
            return f"{'.'.join(map(str, error['loc'][1:]))} is {error['input']!r}: {error['msg']}"
        case HTTPException(status_code=404):
            return f"there is no {request.url.path}"
        case HTTPException(status_code=405):
            return f"{request.url.path} does not answer {request.method}"
        case HTTPException():
            return str(exc.detail)
        case ClientDisconnect():
            return "the connection was closed before the body was complete"
    # What an unforeseen exception says is for the log, not for strangers.
    return str(exc) if kind_of(exc) is not INTERNAL else "an unforeseen error; the log has it under this request_id"


def answer(request: Request, exc: Exception) -> Response:
    """The problem document for any exception; counts what the metrics want to know of it."""
    kind = kind_of(exc)
    timing_of(request).problem = kind.name
    metrics = context_of(request).metrics
    if kind.shed:
        metrics.shed.labels(kind.shed).inc()
    request_id = request_id_of(request)
    extra: dict[str, object] = {}
    if isinstance(exc, RefusedImage):
        metrics.invalid_images.labels(exc.cause.reason).inc()
        extra = {"position": exc.position, "filename": exc.filename}
    if kind is INTERNAL:
        log.error("request %s failed", request_id, exc_info=exc)
    detail = detail_of(exc, request)
    if request.scope["path"].startswith("/v2"):
        # Where clients of the Open Inference Protocol look.
        extra["error"] = detail
    return Response(problem(kind, detail, request_id, **extra).model_dump_json(), kind.status, headers_of(exc), PROBLEM_TYPE)


def problem(kind: Kind, detail: str, request_id: str, **extra: object) -> Problem:
    return Problem(type=f"urn:oodgate:problem:{kind.name}", title=kind.title, status=kind.status, detail=detail, request_id=request_id, **extra)


async def handle(request: Request, exc: Exception) -> Response:
    # Async, or starlette would hop to a thread for it.
    return answer(request, exc)


def install(app: FastAPI) -> None:
    for kind in (HTTPException, RefusedImage, *TABLE):
        app.add_exception_handler(kind, handle)


def documented(*statuses: int) -> dict[int | str, dict[str, type[BaseModel] | str | object]]:
    """The problem responses of a route, for OpenAPI."""
    titles: dict[int, list[str]] = {}
    for kind in (*TABLE.values(), INTERNAL):
        titles.setdefault(kind.status, []).append(f"`{kind.name}`: {kind.title}")
    schema = {"$ref": "#/components/schemas/Problem"}
    return {status: {"description": "; ".join(titles[status]), "content": {PROBLEM_TYPE: {"schema": schema}}} for status in statuses}
