"""Around every request, as plain ASGI: its id, its headers, its count, and the answer to what nobody foresaw."""

import random
import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.context import Timing
from service.metrics import Metrics

SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
UNMATCHED = "unmatched"


class Envelope:
    """ASGI middleware; starlette's own base class would cost a task and two queues per request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id" and SANE_ID.fullmatch(value)), None)
        # An id, no secret: uuid4 asks the kernel, which costs more than all the rest of this function.
        request_id = request_id or b"%032x" % random.getrandbits(128)
        timing = Timing()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["timing"] = timing
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id), (b"server-timing", timing.header())]
                self.metrics.request(route_of(scope), str(message["status"])).inc()
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as exc:  # the last resort: whatever it was, the client gets a problem and the server answers on
            if started:
                raise
            await errors.answer(Request(scope), exc)(scope, receive, send_with_headers)


def route_of(scope: Scope) -> str:
    """The route's template: a label must not take a value for each path that strangers try."""
    route = scope.get("route")
    if route is None and (endpoint := scope.get("endpoint")):
        # FastAPI's router notes only its own kind of route.
        route = next((other for other in scope["app"].routes if getattr(other, "endpoint", None) is endpoint), None)
    return str(getattr(route, "path", UNMATCHED))
