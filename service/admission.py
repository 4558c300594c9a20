"""Who may come in: bursts fill the queue, lasting overload does not; and bodies only as long as there is memory for them."""

import math
import random
import time

from service.place import Place

# So long may more rows wait than fit into one batch before that is no burst any more but overload; which ends once nobody was refused for so long.
BURST_SECONDS, RELIEF_SECONDS = 0.25, 1.0
# In overload the event loop may be so far behind. Whoever comes later waits as long before anyone even looks at the request.
LAG_SECONDS = 0.005


class QueueFull(Exception):
    """Too many rows wait already."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooManyBytes(QueueFull):
    """Too much of other requests' bodies is in memory."""


class Bodies:
    """Counts the bytes of bodies that are held, each from its arrival until its request ends."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0

    def enter(self, size: int) -> None:
        """So many bytes more. Raises TooManyBytes, and counts them nevertheless."""
        self.held += size
        if self.held > self.max_bytes:
            message = f"{self.held} bytes of requests' bodies are being read or answered, at most {self.max_bytes} may"
            raise TooManyBytes(message, random.randint(1, 2))

    def leave(self, size: int) -> None:
        self.held -= size


class Admission:
    """Counts the rows that wait: `held` is all of them, of which each call holds up the others with `busy` at most, and `crowd` counts no more.

    A batch is shared fairly, so however large a call is, it takes no more of a batch than that from those who come after it. The batcher says
    how long a row takes and how far the event loop is behind. busy: rows that are worth a batch on every worker.
    """

    def __init__(self, max_batch_size: int, max_queue_size: int, busy: int) -> None:
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.busy = busy
        # One batch of connections that each ask again at once is never refused: what does not wait runs.
        self.most_in_overload = min(max_queue_size, max(busy, max_batch_size - busy))
        self.held = self.crowd = 0
        self.calm_at = self.refused_at = -math.inf
        self.seconds_per_row = self.lag = 0.0

    def ran(self, seconds_per_row: float, lag: float) -> None:
        """A batch was handed out, `lag` seconds after it had ended."""
        # The average over about the last ten batches.
        self.seconds_per_row += (seconds_per_row - self.seconds_per_row) * (0.1 if self.seconds_per_row else 1)
        self.lag = lag

    def counted(self, rows: int) -> int:
        """Of one call's waiting rows, those that hold up others."""
        return min(rows, self.busy)

    def enter(self, place: Place) -> None:
        self.held += place.held
        self.crowd += self.counted(place.held)

    def leave(self, place: Place, rows: int) -> None:
        """So many of a caller's rows wait no more."""
        self.held -= rows
        self.crowd -= self.counted(place.held) - self.counted(place.held - rows)
        place.held -= rows

    def check(self, rows: int, running: bool) -> None:
        """Raises QueueFull when so many rows would not fit now.

        A queue that stays longer than a batch makes everyone wait and nothing faster: then only as many may wait as keep the workers busy, and
        nobody comes in before the event loop has caught up.
        """
        now = time.monotonic()
        if self.crowd <= self.max_batch_size:
            self.calm_at = now
        overloaded = now - self.calm_at > BURST_SECONDS or now - self.refused_at < RELIEF_SECONDS
        most, behind, full = self.max_queue_size, "", self.held + rows > self.max_queue_size
        if overloaded:
            most = self.most_in_overload
            if running and self.lag > LAG_SECONDS:
                most, behind = 0, f" while the server is {1000 * self.lag:.0f} ms behind"
            full = full or self.crowd + self.counted(rows) > most
        # A call that is larger than the queue never fits; one that is larger than a batch has to begin some time.
        if rows > self.max_queue_size or (self.held and full):
            if overloaded:
                self.refused_at = now
            # At least a second: the header has no smaller unit. Spread out, lest those refused together come back together.
            shortest = max(1, math.ceil(self.held * self.seconds_per_row))
            wait = min(60, random.randint(shortest, 2 * shortest))
            raise QueueFull(f"{self.held} images are waiting, at most {most} may{behind}", wait)
