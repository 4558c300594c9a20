"""A caller over HTTP/1.1, for `service.load`: a client library would cost more than many a server."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

from service.load import LOST, Caller, Run, Target

LENGTH = re.compile(rb"content-length: *(\d+)")
CHUNKED = re.compile(rb"transfer-encoding: *chunked")


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends requests as they are, and sees where answers end."""

    def __init__(self, load: Run, requests: Iterator[bytes], connect: Callable[["Connection"], Awaitable[object]]) -> None:
        self.load = load
        self.requests = requests
        self.connect = connect
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer.clear()

    def send(self, due: float) -> None:
        self.due = due
        if self.transport is None or self.transport.is_closing():
            self.reconnecting = asyncio.ensure_future(self.reconnect())
        else:
            self.transport.write(next(self.requests))

    async def reconnect(self) -> None:
        try:
            await self.connect(self)
        except OSError:
            # Not at once: a server that is gone must not be asked a hundred thousand times a second.
            await asyncio.sleep(0.1)
            self.finish(LOST, time.perf_counter())
        else:
            if self.transport is not None:
                self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        # Before it is read, which takes this side's time.
        at = time.perf_counter()
        self.buffer += data
        if (end := self.buffer.find(b"\r\n\r\n")) < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        if length := LENGTH.search(head):
            complete = len(self.buffer) >= end + 4 + int(length[1])
        else:
            complete = CHUNKED.search(head) is None or self.buffer.endswith(b"0\r\n\r\n")
        if complete:
            self.buffer.clear()
            self.finish(int(head[9:12]), at)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self.transport = None
        self.finish(LOST, time.perf_counter())

    def close(self) -> None:
        self.due = None
        if self.transport is not None:
            self.transport.abort()

    def finish(self, status: int, at: float) -> None:
        if self.due is not None:
            due, self.due = self.due, None
            self.load.done(self, due, status, at)


def server(url: str, bodies: Sequence[bytes], headers: Sequence[str]) -> Target:
    """Callers that POST to a server, each over a connection of its own."""
    where = urlsplit(url)
    host = where.hostname or "127.0.0.1"
    port = where.port or (443 if where.scheme == "https" else 80)
    path = (where.path or "/") + (f"?{where.query}" if where.query else "")
    lines = [f"POST {path} HTTP/1.1", f"Host: {where.netloc}", *headers]
    requests = ["\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body for body in bodies]
    # One circle for all connections, so that each picture is sent equally often.
    circle = cycle(requests)
    context = ssl.create_default_context() if where.scheme == "https" else None

    async def connect(connection: Connection) -> None:
        await asyncio.get_running_loop().create_connection(lambda: connection, host, port, ssl=context)

    @asynccontextmanager
    async def target() -> AsyncIterator[Callable[[Run], Awaitable[Caller]]]:
        made: list[Connection] = []

        async def make(load: Run) -> Connection:
            connection = Connection(load, circle, connect)
            await connect(connection)
            made.append(connection)
            return connection

        try:
            yield make
        finally:
            for connection in made:
                connection.close()
            # What was closed is gone only when the loop has gone round once more.
            await asyncio.sleep(0.01)

    return target
