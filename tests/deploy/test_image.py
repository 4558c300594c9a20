import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from service.serve import listen
from tests.deploy.tools import DEPLOY, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = {name: text for text, name in re.findall(r"^(FROM \S+ AS (\S+)\n.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)}


def health(port: int | None, host: str = "") -> int:
    """The exit code of the image's health check, asking a server that was told to listen there."""
    environment = {"OODGATE_PORT": str(port), "OODGATE_HOST": host}
    return subprocess.run([sys.executable, DEPLOY / "health.py"], env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "localhost"])
def test_the_health_check_passes_for_a_server_that_is_ready(client: httpx.Client, host: str) -> None:
    assert health(client.base_url.port, host) == 0


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()


@pytest.mark.parametrize("host", ["::", "::1"])
def test_the_health_check_asks_a_server_that_listens_on_ipv6_alone(host: str) -> None:
    with HTTPServer(("", 0), Ready, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listen(host, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = health(server.socket.getsockname()[1], host)
        server.shutdown()
    assert code == 0


def test_the_health_check_fails_where_nothing_answers() -> None:
    assert health(9) == 1


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_an_edit_of_the_service_installs_no_package_anew(kind: str) -> None:
    assert STAGES[f"environment-{kind}"].startswith("FROM environment AS")
    copied = re.findall(r"^COPY .*", STAGES["environment"] + STAGES[f"environment-{kind}"], re.MULTILINE)
    assert copied == [f"COPY requirements/service{'-gpu' if kind == 'gpu' else ''}.txt /tmp/"]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_changes_seldom_comes_into_the_image_first(kind: str) -> None:
    stage = STAGES[kind]
    assert stage.startswith("FROM runtime AS")
    order = [stage.index(step) for step in (f"COPY --from=environment-{kind}", "COPY models", "COPY --from=app", "ARG REVISION", "LABEL")]
    assert order == sorted(order)
    assert not re.search(r"^(COPY|ARG)", STAGES["runtime"], re.MULTILINE)


def test_everything_that_is_copied_into_the_image_is_let_through_to_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {path for path in re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE) if not path.startswith("--")}
    assert len(copied) >= 4
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(path == entry or path.startswith(entry + "/") for entry in allowed), path


def test_the_image_carries_the_version_of_the_service() -> None:
    from service import __version__

    assert f"ARG VERSION={__version__}\n" in DOCKERFILE


@pytest.mark.parametrize("kind", ["service", "service-gpu"])
def test_the_images_can_send_traces(kind: str) -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / f"{kind}.txt").read_text(), re.MULTILINE))
    assert {re.split(r"[>=<]", wanted)[0] for wanted in PROJECT["optional-dependencies"]["otel"]} <= pinned
