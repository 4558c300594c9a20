"""A server in a process of its own, as operators start it and as signals reach it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OODGATE_", "OTEL_"))}


@contextmanager
def process(*command: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server process and the address that it says it listens on."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, env=ENVIRONMENT | environment) as server:
        assert server.stderr
        try:
            found = re.search(rb"http://\S+:\d+", server.stderr.readline())
            assert found
            yield server, found[0].decode()
        finally:
            server.kill()


def resident_kb(pid: int) -> int:
    """The memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def wait_until_ready(address: str) -> None:
    patience = time.monotonic() + 60
    while httpx.get(f"{address}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < patience
        time.sleep(0.02)
