"""A real server on a loopback port, in a thread of the test process."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.serve import configure, listen
from service.settings import Settings


@contextmanager
def started(models_dir: Path, port: int = 0, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a server that listens, but may still be loading its models."""
    chosen = Settings(models_dir=models_dir, device="cpu", intra_op_threads=1, **settings)
    failures: list[BaseException] = []
    server = uvicorn.Server(configure(create_app(chosen, failures.append), chosen))
    listener = listen("127.0.0.1", port)
    # A daemon, so that a crash of the tests cannot leave the process waiting for it.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30, limits=httpx.Limits(max_connections=200)) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
    assert not failures


@contextmanager
def serving(models_dir: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a server that is ready."""
    with started(models_dir, **settings) as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client: httpx.Client) -> None:
    patience = time.monotonic() + 30
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < patience, "the server did not become ready"
        time.sleep(0.02)


def check(response: httpx.Response, status: int, kind: str, detail: str = "") -> dict[str, Any]:
    """A problem document of this kind, whose detail matches."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["type"], problem["status"]) == (f"urn:oodgate:problem:{kind}", status)
    assert problem["title"]
    assert re.search(detail, problem["detail"]), problem
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert "Server-Timing" in response.headers
    return problem
