"""What every route works with, made once by the application."""

from dataclasses import dataclass

from starlette.requests import Request

from service.decoder import Decoder
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """Lives as long as the application."""

    settings: Settings
    metrics: Metrics
    repository: Repository
    decoder: Decoder


@dataclass
class Timing:
    """Where one request's time went, in seconds."""

    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0

    def header(self) -> bytes:
        """As Server-Timing has it, in milliseconds."""
        return b"decode;dur=%.3f, queue;dur=%.3f, infer;dur=%.3f" % (self.decode * 1000, self.queue * 1000, self.infer * 1000)


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def timing_of(request: Request) -> Timing:
    timing: Timing = request.state.timing
    return timing
