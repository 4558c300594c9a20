"""What every route works with, made once by the application."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from service.admission import Bodies
from service.capture import Capture
from service.decoder import Decoder
from service.feedback import Recent
from service.keys import Keys
from service.metrics import Metrics
from service.repository import NotReady, Repository
from service.settings import Settings
from service.watch import Watch


@dataclass
class Drain:
    """Begun by SIGTERM: the process answers on, but wants no new clients."""

    begun: bool = False


@dataclass(frozen=True)
class Context:
    """Lives as long as the application."""

    settings: Settings
    metrics: Metrics
    repository: Repository
    decoder: Decoder
    keys: Keys
    drain: Drain
    bodies: Bodies
    recent: Recent[Watch]
    capture: Capture | None

    def check_ready(self) -> None:
        """Raises NotReady while models are loaded for the first time, and once the process is draining."""
        if self.drain.begun:
            raise NotReady("the server is draining and will stop soon")
        self.repository.find()


@dataclass
class Timing:
    """What is known of one request when it ends, for its log line and its trace. Stages in seconds; begins: as time.time() has it."""

    began: float = field(default_factory=time.time)
    read: float = 0.0
    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    encode: float = 0.0
    model: str | None = None
    version: int | None = None
    postprocessor: str | None = None
    body_bytes: int = 0
    images: int = 0
    rejected: int | None = None
    problem: str | None = None
    trace_id: str | None = None

    def header(self) -> bytes:
        """As Server-Timing has it, in milliseconds."""
        return b"decode;dur=%.3f, queue;dur=%.3f, infer;dur=%.3f" % (self.decode * 1000, self.queue * 1000, self.infer * 1000)

    @property
    def decision(self) -> str | None:
        """None while nothing was decided."""
        if self.rejected is None:
            return None
        return "accepted" if self.rejected == 0 else "rejected" if self.rejected == self.images else "mixed"


def context_of(request: Request) -> Context:
    context: Context = request.scope["app"].context
    return context


def timing_of(request: Request) -> Timing:
    timing: Timing = request.scope["state"]["timing"]
    return timing


def request_id_of(request: Request) -> str:
    request_id: str = request.scope["state"]["request_id"]
    return request_id
