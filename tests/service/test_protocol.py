import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.intake import arrived
from service.protocol import MAX_HEAD_BYTES, Joined
from tests.bundles import id_png
from tests.servers import serving


class Wire(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.done.append(data)

    def close(self) -> None:
        self.done.append("close")

    def is_closing(self) -> bool:
        return False


HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}"


async def written(*parts: bytes | str) -> list[bytes | str]:
    """What reaches the wire at once, "round", and what reaches it by the event loop's next round."""
    transport = Joined(wire := Wire(), asyncio.get_running_loop())
    for part in parts:
        if isinstance(part, bytes):
            transport.write(part)
        else:
            transport.close()
    wire.done.append("round")
    await asyncio.sleep(0)
    assert not transport.is_closing()
    return wire.done


def test_head_and_body_are_one_write() -> None:
    assert asyncio.run(written(HEAD, BODY)) == [HEAD + BODY, "round"]


def test_later_parts_of_a_body_and_later_answers_are_written_at_once() -> None:
    assert asyncio.run(written(HEAD, BODY, BODY, HEAD, BODY)) == [HEAD + BODY, BODY, HEAD + BODY, "round"]


def test_a_head_without_a_body_is_held_for_one_round_and_never_lost() -> None:
    assert asyncio.run(written(HEAD)) == ["round", HEAD]
    assert asyncio.run(written(HEAD, "close")) == [HEAD, "close", "round"]


@pytest.mark.parametrize(("more", "all_there"), [(True, False), (False, True)])
def test_a_body_is_all_there_when_uvicorn_expects_no_more_of_it(more: bool, all_there: bool) -> None:
    cycle = RequestResponseCycle.__new__(RequestResponseCycle)
    cycle.more_body = more
    assert arrived(cycle.receive) is all_there


def test_of_another_server_nobody_knows_whether_a_body_is_all_there() -> None:
    async def receive() -> Message:
        raise AssertionError

    assert not arrived(receive)


def connect(client: httpx.Client) -> closing[socket.socket]:
    return closing(socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20))


def exchange(client: httpx.Client, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of the one answer to what is sent, the connection's end among it."""
    with connect(client) as connection:
        for part in parts:
            connection.sendall(part)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return int(status.split()[1]), dict(field.lower().split(": ", 1) for field in fields), body


def upgrading(picture: bytes, chunked: bool) -> tuple[bytes, bytes]:
    """What curl --http2 and Java's HttpClient send first."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(picture)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(picture), picture) if chunked else picture
    return b"POST /predict HTTP/1.1\r\nHost: x\r\n" + offer + length + b"\r\n\r\n", body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "join", [lambda head, body: [head + body], lambda head, body: [head, body], lambda head, body: [head[:30], head[30:] + body]]
)
def test_a_request_that_offers_another_protocol_is_answered_in_this_one(
    client: httpx.Client, chunked: bool, join: Callable[[bytes, bytes], list[bytes]]
) -> None:
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    status, fields, body = exchange(client, *join(*upgrading(id_png(), chunked)), last)
    assert (status, fields["content-type"]) == (200, "application/json")
    assert body.startswith(b'{"model":"tiny"')
    assert body.endswith(b'{"status":"alive"}'), "the connection goes on"


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_so_is_one_after_which_the_connection_ends(client: httpx.Client, version: bytes) -> None:
    head, body = upgrading(id_png(), chunked=False)
    status, _, answer = exchange(client, head.replace(b"HTTP/1.1", version).replace(b"Connection: ", b"Connection: close, "), body)
    assert status == 200
    assert answer.startswith(b'{"model":"tiny"')


@pytest.mark.parametrize("sent", [b"GARBAGE\r\n\r\n", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_no_http_is_answered_with_a_problem(client: httpx.Client, sent: bytes) -> None:
    status, fields, body = exchange(client, sent)
    problem = json.loads(body)
    assert (status, fields["content-type"], fields["connection"]) == (400, "application/problem+json", "close")
    assert (problem["type"], problem["request_id"]) == ("urn:oodgate:problem:malformed-request", fields["x-request-id"])
    assert 'oodgate_requests_total{route="unmatched",status="400"}' in client.get("/metrics").text


@pytest.mark.parametrize(
    "head", [b"GET /" + b"a" * MAX_HEAD_BYTES, b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000]
)
def test_a_head_has_a_limit(client: httpx.Client, head: bytes) -> None:
    status, _, body = exchange(client, head)
    assert (status, json.loads(body)["type"]) == (431, "urn:oodgate:problem:head-too-large")


def test_trailers_have_the_same_limit(client: httpx.Client) -> None:
    chunked = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    with connect(client) as connection:
        connection.sendall(chunked)
        # By when this is answered that has been read.
        client.get("/livez")
        connection.sendall(b"X: a\r\n" * 20_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_bodies_do_not_count_as_heads(client: httpx.Client) -> None:
    with connect(client) as connection:
        for _ in range(3):
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_HEAD_BYTES + bytes(MAX_HEAD_BYTES))
            assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET"])
def test_a_connection_on_which_no_request_is_completed_is_closed(models_dir: Path, sent: bytes) -> None:
    with serving(models_dir, keep_alive_seconds=1) as client, connect(client) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ") == (b"\r\n\r\n" in sent)


def test_of_many_requests_at_once_that_offer_another_protocol_each_is_answered(client: httpx.Client) -> None:
    offering = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connect(client) as connection:
        sending = threading.Thread(target=connection.sendall, args=(offering * 1500 + b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",))
        sending.start()
        found = b"".join(iter(lambda: connection.recv(65536), b""))
        sending.join()
    assert found.count(b"HTTP/1.1 200 ") == 1501


def test_a_client_that_reads_nothing_loses_its_connection(models_dir: Path) -> None:
    # It could hold a body and a place for ever, and the end would wait for it.
    with serving(models_dir, keep_alive_seconds=1) as client, connect(client) as deaf:
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        time.sleep(3)
        read = []
        with suppress(ConnectionResetError):
            while data := deaf.recv(65536):
                read.append(data)
        assert 0 < b"".join(read).count(b"HTTP/1.1 200") < 1000


def test_who_leaves_is_not_answered_though_a_second_request_of_the_same_client_waits(slow_models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = id_png()
    asking = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(picture), picture)
    with caplog.at_level("INFO"), serving(slow_models_dir, max_batch_size=1) as client:
        with ExitStack() as stack:
            *before, leaving = (stack.enter_context(connect(client)) for _ in range(7))
            for connection in before:
                connection.sendall(asking)
            time.sleep(0.05)
            leaving.sendall(asking * 2)
            time.sleep(0.05)
            leaving.close()
            for connection in before:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.post("/predict", content=picture)
    assert "Exception in ASGI application" not in caplog.text
    statuses = [vars(record)["fields"]["status"] for record in caplog.records if "POST /predict" in record.message]
    assert (statuses.count(499), statuses.count(200)) == (1, 7)
