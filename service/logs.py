"""Log lines on standard error: for people, or one JSON object each for a collector. One line per request; never what was in it."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from service.context import Timing

requests = logging.getLogger("service.requests")
# Asked every few seconds by machines; whoever wants their lines sets log_level to debug.
QUIET = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
STAGES = ("read", "decode", "queue", "infer", "encode")


class JsonFormatter(logging.Formatter):
    """One line, one object. What a record carries as `fields` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class ConsoleFormatter(logging.Formatter):
    """As people read it; `fields` as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's own name
        fields: dict[str, Any] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{key}={value}" for key, value in fields.items())])


def set_up(log_format: Literal["json", "console"], log_level: str = "info") -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    # Pillow warns of odd pictures; that is a line like any other.
    logging.captureWarnings(True)
    # Its lines about processes and start-up say less than ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def request(method: str, route: str, path: str, status: int, seconds: float, request_id: str, timing: Timing) -> None:
    """The one line of a request. Neither its query nor its headers: keys may be in them."""
    level = logging.DEBUG if route in QUIET else logging.WARNING if status >= 500 else logging.INFO
    if not requests.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "request_id": request_id,
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 3),
    }
    if timing.model is not None:
        fields |= {"model": timing.model, "version": timing.version, "postprocessor": timing.postprocessor, "images": timing.images}
        fields |= {f"{stage}_ms": round(getattr(timing, stage) * 1000, 3) for stage in STAGES}
    if timing.decision is not None:
        fields |= {"decision": timing.decision, "rejected": timing.rejected}
    if timing.problem is not None:
        fields["problem"] = timing.problem
    if timing.trace_id is not None:
        fields["trace_id"] = timing.trace_id
    # As JSON, so that a line break in a path cannot pass for a line of ours.
    requests.log(level, "%s %s", method, json.dumps(path[:200])[1:-1], extra={"fields": fields})
