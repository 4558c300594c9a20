import getpass
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.bundles import id_png, write_bundle
from tests.deploy.tools import DEPLOY, free_port, run
from tests.servers import serving

# Under root the workers would be another user, who cannot read a test's folder.
GLOBALS = f"daemon off; user {getpass.getuser()};"
PNG = {"Content-Type": "image/png"}


@contextmanager
def nginx(folder: Path, replicas: list[int]) -> Iterator[httpx.Client]:
    """The deployed configuration in front of the replicas at these ports."""
    port = free_port()
    text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
    text = re.sub(r" /tmp/", f" {folder}/", text).replace("/dev/stdout", f"{folder}/access.log").replace("/dev/stderr", f"{folder}/error.log")
    addresses = cycle(replicas)
    upstream = (DEPLOY / "nginx" / "upstream.conf").read_text()
    (folder / "upstream.conf").write_text(re.sub(r"server [\d.]+:8000", lambda _: f"server 127.0.0.1:{next(addresses)}", upstream))
    (folder / "nginx.conf").write_text(text)
    run("nginx", "-t", "-p", folder, "-c", folder / "nginx.conf")
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-g", GLOBALS])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as proxied:
            patience = time.monotonic() + 30
            while True:
                try:
                    proxied.get("/livez")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < patience, "nginx does not answer"
                    time.sleep(0.02)
            yield proxied
    finally:
        process.terminate()
        process.wait(30)


def port_of(client: httpx.Client) -> int:
    assert client.base_url.port
    return client.base_url.port


@pytest.fixture
def proxied(client: httpx.Client, tmp_path: Path) -> Iterator[httpx.Client]:
    """nginx in front of one replica that lives and one that does not."""
    with nginx(tmp_path, [port_of(client), free_port()]) as proxied:
        yield proxied


def test_no_request_notices_that_one_replica_is_dead(proxied: httpx.Client) -> None:
    answers = [proxied.post("/predict", content=id_png(seed), headers=PNG | {"X-Request-ID": f"mine-{seed}"}) for seed in range(20)]
    assert [(answer.status_code, answer.headers["X-Request-ID"]) for answer in answers] == [(200, f"mine-{seed}") for seed in range(20)]


def test_a_dead_replica_is_asked_once_and_then_left_alone(proxied: httpx.Client, tmp_path: Path) -> None:
    for seed in range(20):
        proxied.post("/predict", content=id_png(seed), headers=PNG).raise_for_status()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert sum("," in line["upstream"] for line in lines) <= 1


def test_a_replica_that_is_back_is_asked_when_all_had_been_taken_out(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    port = free_port()
    with nginx(tmp_path, [port, free_port()]) as proxied:
        assert proxied.post("/predict", content=id_png(), headers=PNG).status_code == 503
        with serving(tmp_path / "models", port=port):
            assert proxied.post("/predict", content=id_png(), headers=PNG).status_code == 200


def test_feedback_finds_the_replica_that_answered(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    with serving(tmp_path / "models") as one, serving(tmp_path / "models") as other, nginx(tmp_path, [port_of(one), port_of(other)]) as proxied:
        for replica in (one, other):
            answered = replica.post("/predict", content=id_png(), headers=PNG).headers["X-Request-ID"]
            for _ in range(2):  # whichever of the two is asked first
                assert proxied.post("/feedback", json={"request_id": answered, "was_ood": False}).status_code == 200
        assert proxied.post("/feedback", json={"request_id": "nobody's", "was_ood": False}).status_code == 404
        assert proxied.post("/predict", content=id_png(), headers=PNG).status_code == 200


def test_what_speaks_of_one_replica_alone_is_not_answered(proxied: httpx.Client) -> None:
    for answer in (proxied.get("/metrics"), proxied.post("/models/tiny/reload"), proxied.post("/models/tiny/acknowledge")):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:oodgate:problem:unknown-route")


def test_a_body_that_is_too_large_is_answered_with_a_problem(proxied: httpx.Client) -> None:
    answer = proxied.post("/predict", content=bytes(16 * 2**20 + 1), headers=PNG)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:oodgate:problem:body-too-large")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_with_no_replica_left_clients_are_told_to_come_back(tmp_path: Path) -> None:
    with nginx(tmp_path, [free_port(), free_port()]) as proxied:
        answer = proxied.post("/predict", content=id_png(), headers=PNG)
    assert (answer.status_code, answer.json()["type"], answer.headers["Retry-After"]) == (503, "urn:oodgate:problem:not-ready", "2")
