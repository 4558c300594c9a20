"""Around every request, as plain ASGI: its id, its headers, its count, its log line, and the answer to what nobody foresaw."""

import random
import re
import time

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors, logs
from service.admission import Bodies
from service.context import Drain, Timing
from service.metrics import Metrics
from service.tracing import Tracer

SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
UNMATCHED = "unmatched"


class Envelope:
    """ASGI middleware; starlette's own base class would cost a task and two queues per request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, drain: Drain, bodies: Bodies, tracer: Tracer | None) -> None:
        self.app = app
        self.metrics = metrics
        self.drain = drain
        self.bodies = bodies
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id" and SANE_ID.fullmatch(value)), None)
        request_id = request_id or new_request_id()
        timing = Timing()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["timing"] = timing
        arrived = time.monotonic()
        # As long as nothing was sent. nginx's word for a client that has gone.
        status = 499

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", request_id), (b"server-timing", timing.header())]
                message["headers"] = [*headers, (b"connection", b"close")] if self.drain.begun else headers
                self.metrics.request(route_of(scope), str(status)).inc()
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as exc:  # the last resort: whatever it was, the client gets a problem and the server answers on
            if status != 499:
                raise
            await errors.answer(Request(scope), exc)(scope, receive, send_with_headers)
        finally:
            self.bodies.leave(timing.body_bytes)
            about = status, time.monotonic() - arrived, state["request_id"], timing
            route = route_of(scope)
            if self.tracer is not None:
                self.tracer.record(scope["method"], route, Headers(scope=scope), *about)
            logs.request(scope["method"], route, scope["path"], *about)


def new_request_id() -> bytes:
    """An id, no secret: uuid4 asks the kernel, which costs more than all that `Envelope` does."""
    return b"%032x" % random.getrandbits(128)


def route_of(scope: Scope) -> str:
    """The route's template: a label must not take a value for each path that strangers try."""
    route = scope.get("route")
    if route is None:
        # FastAPI's router notes only its own kind of route, and no router has seen what was refused for its key.
        route = next((other for other in scope["app"].every_route if other.matches(scope)[0] is not Match.NONE), None)
    return str(getattr(route, "path", UNMATCHED))
