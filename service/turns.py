"""Whose turn it is, where many wait for few places: what costs little goes before what costs much, and nobody waits for ever."""

import asyncio
import heapq
from itertools import count


class Turns:
    """`places` at once. Who waits stands in the order of coming, as if it had come later by its handicap."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self.numbers = count()

    async def take(self, handicap: float) -> None:
        """handicap: seconds. So long after this one others may come and still be let in before."""
        if self.free:
            self.free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        heapq.heappush(self.waiting, (loop.time() + handicap, next(self.numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It came in the same moment.
                self.give()
            raise

    def give(self) -> None:
        """The end of a turn."""
        while self.waiting:
            turn = heapq.heappop(self.waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1
