"""`oodgate serve`: uvicorn around the application, and a sentence and an exit code when it cannot start."""

import logging
import os
import socket
import sys

import prometheus_client
import uvicorn
from fastapi import FastAPI

from service import logs
from service.app import create_app
from service.settings import Settings

log = logging.getLogger(__name__)
BACKLOG = 2048


def serve(settings: Settings) -> int:
    """Runs until a signal ends it. 1 when it could not start."""
    logs.set_up(settings.log_format)
    # One more series for every counter and histogram, which nobody here reads.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    failures: list[BaseException] = []

    def stop(exc: BaseException) -> None:
        failures.append(exc)
        server.should_exit = True

    app = create_app(settings, stop)
    server = uvicorn.Server(configure(app, settings))
    try:
        listener = listen(settings.host, settings.port)
    except OSError as exc:
        # socket.create_server appends the address to strerror, which is here already. A host name that is not found has a negative errno.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror
        print(f"oodgate: cannot listen on {settings.host} port {settings.port}: {reason}", file=sys.stderr)
        return 1
    log.info("listening on http://%s:%d", settings.host, listener.getsockname()[1])
    server.run(sockets=[listener])
    for failure in failures:
        print(f"oodgate: {failure or type(failure).__name__}", file=sys.stderr)
    return 1 if failures else 0


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """A uvicorn without what costs time on every request and serves nobody here."""
    return uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: made here so that a taken port is one sentence, not uvicorn's log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)
