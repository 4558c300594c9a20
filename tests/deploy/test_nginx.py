import getpass
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import errors
from tests.bundles import id_png, write_bundle
from tests.deploy.tools import DEPLOY, free_port, run
from tests.servers import serving

# Under root the workers would be another user, who cannot read a test's folder.
GLOBALS = f"daemon off; user {getpass.getuser()};"
PNG = {"Content-Type": "image/png"}


@contextmanager
def nginx(folder: Path, replicas: list[int], second: str = "s") -> Iterator[httpx.Client]:
    """The deployed configuration in front of the replicas at these ports. second: the unit of nginx's patience with them and with clients."""
    port = free_port()
    text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
    text = re.sub(r" /tmp/", f" {folder}/", text).replace("/dev/stdout", f"{folder}/access.log").replace("/dev/stderr", f"{folder}/error.log")
    text = re.sub(r"((?:proxy_\w+|client_\w+|send)_timeout \d+)s;", rf"\g<1>{second};", text)
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
        check(answer, 404, "unknown-route")


def check(answer: httpx.Response, status: int, kind: str) -> None:
    """A problem document of nginx's own."""
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["type"]) == (status, status, f"urn:oodgate:problem:{kind}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("body", [bytes(16 * 2**20 + 1), iter([bytes(2**20)] * 17)], ids=["announced", "chunked"])
def test_a_body_that_is_too_large_is_answered_with_a_problem(proxied: httpx.Client, body: bytes | Iterator[bytes]) -> None:
    check(proxied.post("/predict", content=body, headers=PNG), 413, "body-too-large")


def test_with_no_replica_left_clients_are_told_to_come_back(tmp_path: Path) -> None:
    with nginx(tmp_path, [free_port(), free_port()]) as proxied:
        answer = proxied.post("/predict", content=id_png(), headers=PNG)
    check(answer, 503, "not-ready")
    assert answer.headers["Retry-After"] == "2"


def test_a_replica_that_never_answers_is_answered_for_with_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, nginx(tmp_path, [silent.getsockname()[1]], second="0ms") as proxied:
        check(proxied.post("/predict", content=id_png(), headers=PNG), 504, "deadline-passed")


def test_a_body_that_cannot_be_stored_is_answered_with_a_problem(proxied: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "client_body").rmdir()
    check(proxied.post("/predict", content=bytes(2**21), headers=PNG), 500, "internal")


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "malformed-request"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method-not-allowed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431, "head-too-large"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head-too-large"),
    ],
    ids=["no request", "no host", "version", "encoding", "trace", "long header", "long address"],
)
def test_what_nginx_itself_refuses_to_read_is_answered_with_a_problem(proxied: httpx.Client, request_: bytes, status: int, kind: str) -> None:
    with socket.create_connection(("127.0.0.1", port_of(proxied))) as connection:
        connection.sendall(request_)
        answer = HTTPResponse(connection)
        answer.begin()
        check(httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read()), status, kind)


def test_nginx_calls_what_it_answers_as_the_service_does() -> None:
    known = {*errors.TABLE.values(), *errors.ROUTING.values(), *(kind for kind in vars(errors).values() if isinstance(kind, errors.Kind))}
    text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("\\'", "'")
    kinds = re.findall(r"(\d+) +'\"type\":\"urn:oodgate:problem:(.*?)\",\"title\":\"(.*?)\"';", text)
    assert len(kinds) == 8
    assert {(int(status), name, title) for status, name, title in kinds} <= {(kind.status, kind.name, kind.title) for kind in known}


def test_clients_of_the_open_inference_protocol_find_the_error_where_they_look(tmp_path: Path) -> None:
    with nginx(tmp_path, [free_port()]) as proxied:
        problem = proxied.get("/v2").json()
        assert problem["error"] == problem["detail"]
        assert "error" not in proxied.get("/models").json()


def logged(folder: Path, request_id: str) -> dict[str, Any]:
    """The log's line about a request; nginx writes it when the answer has gone."""
    patience = time.monotonic() + 10
    while time.monotonic() < patience:
        for line in (folder / "access.log").read_text().splitlines():
            if (entry := json.loads(line))["request_id"] == request_id:
                return dict(entry)
        time.sleep(0.02)
    raise AssertionError(f"the log has no {request_id}")


@pytest.mark.parametrize("path", ["/metrics", "/livez"], ids=["nginx answers", "a replica answers"])
@pytest.mark.parametrize(("sent", "taken"), [("a.b:c/d+e=f@g-1", True), ("x" * 128, True), ("x" * 129, False), ('a"b', False), ("a b", False)])
def test_an_id_of_the_clients_is_taken_over_if_it_is_sane(proxied: httpx.Client, tmp_path: Path, path: str, sent: str, taken: bool) -> None:
    answered = proxied.get(path, headers={"X-Request-ID": sent}).headers["X-Request-ID"]
    assert (answered == sent) is taken
    assert logged(tmp_path, answered)["status"] in (200, 404)


def test_the_log_says_who_asked(proxied: httpx.Client, tmp_path: Path) -> None:
    assert logged(tmp_path, proxied.get("/livez").headers["X-Request-ID"])["client"] == "127.0.0.1"


@pytest.mark.parametrize("sent", [b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"])
def test_a_client_that_stops_does_not_hold_its_connection(tmp_path: Path, sent: bytes) -> None:
    with nginx(tmp_path, [free_port()], second="0ms") as proxied, socket.create_connection(("127.0.0.1", port_of(proxied)), timeout=20) as stuck:
        stuck.sendall(sent)
        assert stuck.recv(65536) == b""
