"""Traces, as a collector receives them; and that nothing of OpenTelemetry is there when nobody asks."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service import tracing
from tests.bundles import id_png
from tests.processes import ENVIRONMENT
from tests.servers import serving

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """The address of an OTLP endpoint, and what it has received."""
    received: list[bytes] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_s_span_and_its_stages_reach_the_collector(
    models_dir: Path, collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    address, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with serving(models_dir) as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "order-7"}
        assert client.post("/predict", content=id_png(), headers=headers).status_code == 200
        assert client.get("/nothing").status_code == 404
        client.get("/livez")
    exported = [ExportTraceServiceRequest.FromString(body).resource_spans[0] for body in received]
    resource = {entry.key: entry.value.string_value for entry in exported[0].resource.attributes}
    assert (resource["service.name"], resource["deployment.environment"]) == ("oodgate", "test")
    spans = {span.name: span for part in exported for scope in part.scope_spans for span in scope.spans}
    assert set(spans) == {"POST /predict", "read", "decode", "queue", "infer", "encode", "GET unmatched"}
    root = spans["POST /predict"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {entry.key: entry.value.string_value or entry.value.int_value for entry in root.attributes}
    assert (attributes["http.response.status_code"], attributes["oodgate.model"], attributes["oodgate.request_id"]) == (200, "tiny", "order-7")
    assert attributes["oodgate.decision"] in ("accepted", "rejected")
    for stage in ("read", "decode", "queue", "infer", "encode"):
        assert spans[stage].parent_span_id == root.span_id
        assert root.start_time_unix_nano <= spans[stage].start_time_unix_nano <= spans[stage].end_time_unix_nano <= root.end_time_unix_nano
    assert spans["GET unmatched"].trace_id != root.trace_id


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_asks_and_nothing_is_imported(environment: dict[str, str]) -> None:
    look = (
        "import sys; from service.app import create_app; from service.settings import Settings; create_app(Settings(), print); "
        "sys.exit(str([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))] or ''))"
    )
    found = subprocess.run([sys.executable, "-c", look], env=ENVIRONMENT | environment, capture_output=True, text=True, check=False, timeout=100)
    assert found.stderr.strip() == ""


def test_an_agent_s_variables_do_not_stop_a_server_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert tracing.open_tracer() is None
    assert "install oodgate[otel]" in caplog.text


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "LAST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with serving(models_dir) as client:
            client.get("/livez")
            began = time.monotonic()
        assert time.monotonic() - began < 8, "the SDK by itself tries for 18 s and more"
