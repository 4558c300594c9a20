"""What is known of uvicorn: when a request's body is all there, and that it writes an answer's head and body apart.

`Protocol` writes them together: each write is a system call here and wakes the client there.
"""

import asyncio
from typing import Any, cast

from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD = b"HTTP/1.1 "


def arrived(receive: Receive) -> bool:
    """Whether the whole body has come, so that to receive it cannot take any time. False where nobody knows."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and not cycle.more_body


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
    """uvicorn's own, writing through `Joined`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
