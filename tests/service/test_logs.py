import json
import logging
import sys

from service.logs import JsonFormatter


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
