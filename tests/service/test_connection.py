"""The load generator's connections, against the real server and against one that misbehaves."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from service.connection import server
from service.load import LOST, closed_loop
from tests.bundles import id_png


@contextmanager
def answering(reply: bytes, then_close: bool) -> Iterator[str]:
    """A server that gives every request the same bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(talking: socket.socket) -> None:
        with talking:
            while talking.recv(65536):
                talking.sendall(reply)
                if then_close:
                    return

    def listen() -> None:
        while True:
            try:
                talking, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(talking,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        # Closing alone would leave the thread waiting in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_pictures_are_answered_over_connections_that_stay_open(client: httpx.Client) -> None:
    url = str(client.base_url.join("/predict?postprocessor=msp"))
    outcome = closed_loop(server(url, [id_png(1), id_png(2)], ["Content-Type: image/png"]), 4, 0.5, 0)
    assert set(outcome.statuses) == {"200"}
    assert outcome.statuses["200"] > 8


def test_what_the_server_refuses_is_counted_by_its_status(client: httpx.Client) -> None:
    outcome = closed_loop(server(str(client.base_url.join("/predict")), [b"none", id_png()], []), 2, 0.5, 0)
    assert set(outcome.statuses) == {"200", "415"}


def test_an_answer_in_chunks_ends_with_its_last_chunk() -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with answering(reply, then_close=False) as url:
        assert set(closed_loop(server(url, [b"x"], []), 2, 0.2, 0).statuses) == {"200"}


def test_a_connection_that_the_server_closes_is_opened_again() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", then_close=True) as url:
        outcome = closed_loop(server(url, [b"x"], []), 2, 0.3, 0)
    assert outcome.statuses["200"] > 2


def test_a_connection_that_breaks_before_the_answer_is_a_lost_request() -> None:
    with answering(b"", then_close=True) as url:
        assert set(closed_loop(server(url, [b"x"], []), 2, 0.2, 0).statuses) == {str(LOST)}
