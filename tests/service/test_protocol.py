import asyncio

import pytest
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.protocol import Joined, arrived


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
