import json
import logging
import sys

import pytest

from service.context import Timing
from service.logs import ConsoleFormatter, JsonFormatter, request


def test_a_json_line_is_one_object_even_with_an_exception() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("service", logging.ERROR, "", 0, "request %s failed", ("7",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "service", "request 7 failed")
    assert "ValueError: two" in entry["exception"]
    assert entry["time"].endswith("+00:00")


def test_people_read_a_request_s_fields_beside_its_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    request("POST", "/predict", "/predict", 200, 0.0123, "7", Timing(model="tiny", version=1, postprocessor="knn", images=3, rejected=1))
    line = ConsoleFormatter().format(caplog.records[0])
    assert "INFO service.requests: POST /predict request_id=7 method=POST route=/predict status=200 duration_ms=12.3 model=tiny" in line
    assert "decision=mixed rejected=1" in line


@pytest.mark.parametrize(("route", "status", "level"), [("/readyz", 503, "DEBUG"), ("/predict", 429, "INFO"), ("/predict", 500, "WARNING")])
def test_probes_are_quiet_and_failures_are_not(caplog: pytest.LogCaptureFixture, route: str, status: int, level: str) -> None:
    caplog.set_level("DEBUG")
    request("GET", route, route, status, 0.1, "7", Timing())
    assert [record.levelname for record in caplog.records] == [level]
