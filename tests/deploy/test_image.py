import re
import subprocess
import sys

import httpx

from tests.deploy.tools import DEPLOY, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def health(client: httpx.Client) -> int:
    """The exit code of the image's health check, asking that server."""
    environment = {"OODGATE_PORT": str(client.base_url.port)}
    return subprocess.run([sys.executable, DEPLOY / "health.py"], env=environment, capture_output=True, check=False).returncode


def test_the_health_check_passes_for_a_server_that_is_ready(client: httpx.Client) -> None:
    assert health(client) == 0


def test_the_health_check_fails_where_nothing_answers() -> None:
    with httpx.Client(base_url="http://127.0.0.1:9") as nobody:
        assert health(nobody) == 1


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
