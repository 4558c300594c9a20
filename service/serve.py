"""`oodgate serve`: uvicorn around the application, what signals mean, and a sentence and an exit code when it cannot start."""

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from types import FrameType

import prometheus_client
import uvicorn

from service import logs, processes
from service.app import Application, create_app
from service.memory import let_go_of_large
from service.protocol import Protocol
from service.settings import Settings, WrongSetting, unknown_variables

log = logging.getLogger(__name__)
BACKLOG = 2048
YOUNG_OBJECTS = 20_000
SWITCH_SECONDS = 0.0001
# What shells expect of a command that Ctrl-C ended.
INTERRUPTED = 130


class Server(uvicorn.Server):
    """SIGTERM drains: readiness says no, requests are served on for drain_seconds, then what is in flight is finished. A second one
    skips the wait, a third one the finishing. Ctrl-C never waits. SIGHUP reads keys and models anew. The exit code is 0, or 130.
    """

    def __init__(self, app: Application, settings: Settings) -> None:
        super().__init__(configure(app, settings))
        self.application = app
        self.settings = settings
        self.stop_at = math.inf
        self.interrupted = False
        self.reloading: set[asyncio.Task[None]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a signal handler's form
        self.interrupted |= sig == signal.SIGINT
        drain = self.application.state.drain
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGINT or drain.begun or self.settings.drain_seconds == 0:
            drain.begun = self.should_exit = True
        else:
            drain.begun = True
            self.stop_at = time.monotonic() + self.settings.drain_seconds
            log.info("draining: not ready any more, serving on for %g s", self.settings.drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or time.monotonic() >= self.stop_at

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.hang_up)

    def hang_up(self) -> None:
        if self.should_exit:
            return
        task = asyncio.create_task(self.reload())
        self.reloading.add(task)
        task.add_done_callback(self.reloading.discard)

    async def reload(self) -> None:
        context = self.application.context
        try:
            context.keys.read()
        except WrongSetting as exc:
            log.error("the keys were not read again, those in force stay: %s", exc)
        await context.repository.reload_all()


def serve(settings: Settings) -> int:
    """Runs until a signal ends it. 1 when it could not start."""
    let_go_of_large()
    logs.set_up(settings.log_format, settings.log_level)
    # One more series for every counter and histogram, which nobody here reads.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    failures: list[BaseException] = []

    def stop(exc: BaseException) -> None:
        failures.append(exc)
        server.should_exit = True

    try:
        processes.join()
        server = Server(create_app(settings, stop), settings)
        listener = listen(settings.host, settings.port)
    except WrongSetting as exc:
        print(f"oodgate: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        # socket.create_server appends the address to strerror, which is here already. A host name that is not found has a negative errno.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror
        print(f"oodgate: cannot listen on {settings.host} port {settings.port}: {reason}", file=sys.stderr)
        return 1
    log.info("listening on http://%s:%d", settings.host, listener.getsockname()[1])
    for name in unknown_variables(os.environ):
        log.warning("environment variable %s is no setting and changes nothing", name)
    # A batch's thread that comes back from the graph waits so long for the event loop to give way, and a CPU with it. The default is 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    # What is there by now stays there. To look through it for garbage would stop the event loop for 30 ms every time.
    gc.collect()
    gc.freeze()
    # The requests in flight are some thousand objects, which need no search once they are answered; by default every 700 of them begin one.
    gc.set_threshold(YOUNG_OBJECTS)
    server.run(sockets=[listener])
    processes.leave()
    for failure in failures:
        print(f"oodgate: {failure or type(failure).__name__}", file=sys.stderr)
    if failures:
        return 1
    # All is closed. What Python would do yet is free memory, for seconds on a busy machine, while a load balancer waits for the next process.
    logging.shutdown()
    os._exit(INTERRUPTED if server.interrupted else 0)


def configure(app: Application, settings: Settings) -> uvicorn.Config:
    """A uvicorn without what costs time on every request and serves nobody here."""
    return uvicorn.Config(
        app,
        http=Protocol,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        # By then every request in flight has been answered or refused.
        timeout_graceful_shutdown=math.ceil((settings.body_timeout_ms + settings.request_deadline_ms) / 1000) + 5,
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: made here so that a taken port is one sentence, not uvicorn's log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)
