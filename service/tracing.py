"""OpenTelemetry: one span per request, its stages below it, sent when OTEL_* names a collector. Else none of it is imported."""

import logging
import os
import threading
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from service.context import Timing
from service.logs import QUIET, STAGES

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SECOND = 1_000_000_000
# To send what is left in at the end.
LAST_SECONDS = 5


def configured() -> bool:
    """Whether the environment asks for traces, in OpenTelemetry's own words."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(os.environ.get(name) for name in ENDPOINTS)


def open_tracer() -> "Tracer | None":
    """A tracer if the environment asks for one. An agent that sets OTEL_* everywhere must not stop a server without the extra."""
    if not configured():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        log.warning("OTEL_* asks for traces, but %s is not installed; install oodgate[otel]. There will be no traces", exc.name)
        return None
    provider = TracerProvider(resource=Resource({SERVICE_NAME: "oodgate"}).merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


class Tracer:
    """Writes a request's spans once it is over, from what was measured anyway: a request waits for nothing here."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = provider
        self.tracer = provider.get_tracer("oodgate")
        self.propagator = TraceContextTextMapPropagator()

    def record(self, method: str, route: str, headers: Headers, status: int, seconds: float, request_id: str, timing: Timing) -> None:
        """Notes the trace's id in `timing`. A `traceparent` of the caller is continued."""
        if route in QUIET:
            return
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "oodgate.request_id": request_id,
        }
        if timing.model is not None:
            attributes |= {"oodgate.model": timing.model, "oodgate.version": timing.version or 0, "oodgate.images": timing.images}
        if timing.decision is not None:
            attributes |= {"oodgate.decision": timing.decision, "oodgate.rejected": timing.rejected or 0}
        if timing.problem is not None:
            attributes["error.type"] = timing.problem
        began = int(timing.began * SECOND)
        parent = self.propagator.extract(headers)
        span = self.tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes, start_time=began)
        at = began
        for stage in STAGES:
            if elapsed := int(getattr(timing, stage) * SECOND):
                self.tracer.start_span(stage, set_span_in_context(span), start_time=at).end(at + elapsed)
                at += elapsed
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(began + int(seconds * SECOND))
        timing.trace_id = f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Sends what is left; gives up after some seconds if the collector does not answer, where the SDK tries for half a minute."""
        sending = threading.Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        sending.join(LAST_SECONDS)
