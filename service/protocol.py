"""HTTP as uvicorn speaks it, where that is not enough: how requests begin, and how answers are written.

uvicorn writes an answer's head and body apart: each write is a system call here and wakes the client there. It waits for ever for the first
request and for the rest of one, reads heads of any size, drops the body of a request that offers another protocol, and answers what is no
HTTP with plain text.
"""

import asyncio
import logging
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.envelope import UNMATCHED, new_request_id
from service.errors import HEAD_TOO_LARGE, MALFORMED_REQUEST, PROBLEM_TYPE, Kind, problem

log = logging.getLogger(__name__)
HEAD = b"HTTP/1.1 "
# Of a request's line and header fields together, and of what is no data in a body. nginx and most others allow 32 KiB or less.
MAX_HEAD_BYTES = 64 * 1024


class Joined:
    """A transport that holds a head back until the body comes, at most until the event loop's next round."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.loop = loop
        self.held = b""

    def write(self, data: bytes) -> None:
        if self.held:
            self.held += data
            self.flush()
        elif data.startswith(HEAD):
            self.held = data
            self.loop.call_soon(self.flush)
        else:
            self.transport.write(data)

    def flush(self) -> None:
        if self.held:
            data, self.held = self.held, b""
            self.transport.write(data)

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's own, writing through `Joined`. A head may take keep_alive_seconds, from the connection's beginning or the last answer on.

    So may a client that reads nothing of what it is sent.
    """

    head_bytes = 0
    running: RequestResponseCycle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn does so only where the connection ended well.
        self._unset_keepalive_if_required()
        if self.unread is not None:
            self.unread.cancel()
        # uvicorn tells the latest request alone, and that may still wait for this one.
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(), which waits for what is not read.
        self.unread = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        if self.unread is not None:
            self.unread.cancel()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.head_bytes += len(data)
        try:
            self.feed(data)
        except httptools.HttpParserError as exc:
            self.refuse(MALFORMED_REQUEST, f"what was sent cannot be read as HTTP/1.1: {exc}")
            return
        if self.head_bytes > MAX_HEAD_BYTES:
            self.refuse(HEAD_TOO_LARGE, f"the request's line and header fields, or trailers, have more than {MAX_HEAD_BYTES} bytes")

    def feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as exc:
                if self.parser.get_method() == b"CONNECT":
                    self.refuse(MALFORMED_REQUEST, "this server is no proxy: CONNECT is not answered")
                    return
                # RFC 9110, 7.8: who does not speak the protocol that is offered answers in the one in which the request came.
                data = self.head_without_upgrade() + data[exc.args[0] :]
                # The old one reads nothing more where the connection is to end after this request.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.head_bytes = 0
            self._unset_keepalive_if_required()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.head_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def refuse(self, kind: Kind, detail: str) -> None:
        """Answers what reaches no route, and ends the connection: where the next request begins nobody knows."""
        request_id = new_request_id()
        log.warning("refused: %s", detail, extra={"fields": {"request_id": request_id.decode(), "problem": kind.name}})
        body = problem(kind, detail, request_id.decode()).model_dump_json().encode()
        fields = (b"content-type: " + PROBLEM_TYPE.encode(), b"content-length: %d" % len(body), b"connection: close", b"x-request-id: " + request_id)
        self.transport.write(b"\r\n".join([STATUS_LINE[kind.status].rstrip(), *fields, b"", body]))
        self.transport.close()
        self.config.loaded_app.context.metrics.request(UNMATCHED, str(kind.status)).inc()
