"""Keeps rejected pictures, and some accepted ones to hold them against, where the operator wants them. Never at a request's expense.

While requests are answered a window chooses among their pictures; once a minute a thread of its own takes what the window holds, and encodes and
writes it. While that takes longer, the window goes on choosing: it stays as small, and what it holds stays a fair sample. A store that fails costs
the pictures of that minute, and is told in a metric and one line of the log.
"""

import asyncio
import errno
import logging
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from service.budget import KEYS, KINDS, Held, Kind, Ledger, Window
from service.bundle.preprocess import Pixels
from service.captured import Candidate
from service.decoder import Upload
from service.metrics import Metrics
from service.model import Model
from service.settings import Settings, WrongSetting
from service.store import FolderStore, NoStore, Store, open_store
from service.verdict import Choice, Judged, Verdict

T = TypeVar("T")
log = logging.getLogger(__name__)
MINUTE = 60.0
# Others may write there too, and what they wrote counts.
LIST_SECONDS = 600.0
PAUSE_EVERY = 200
# Of the pictures that wait, in memory, for each model and kind.
WAITING_BYTES = 32 * 2**20
STOP_SECONDS = 5.0


class Capture:
    """Open with `async with`. `offer` is for the event loop, all else for the thread."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics, window_seconds: float = MINUTE) -> None:
        self.store = store
        self.per_minute = settings.capture_per_minute
        self.control_share = settings.capture_control_share
        self.ttl_seconds = settings.capture_ttl_days * 86400
        self.ledger = Ledger(settings.capture_per_class, settings.capture_per_day, settings.capture_max_bytes)
        self.metrics = metrics
        self.window_seconds = window_seconds
        self.windows: dict[tuple[str, Kind], Window[Candidate]] = {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.give_up_at = float("inf")
        self.listed_at = self.complained_at = float("-inf")
        self.thread = threading.Thread(target=self.run, name="capture", daemon=True)
        self.count = {(kind, result): metrics.capture.labels(kind, result) for kind in KINDS for result in ("kept", "left_out", "failed")}

    async def __aenter__(self) -> Self:
        self.thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Writes what waits, for STOP_SECONDS at most."""
        self.give_up_at = time.monotonic() + STOP_SECONDS
        self.stopping.set()
        await asyncio.to_thread(self.thread.join, STOP_SECONDS)
        if self.thread.is_alive():
            log.warning("capture: the store did not take what was waiting within %g s, it is lost", STOP_SECONDS)

    def offer(self, request_id: str, model: Model, choice: Choice, verdict: Verdict, judged: Judged, images: Sequence[Upload] | Pixels) -> None:
        """Answered images (N), and what was decided. Copies no picture that is not chosen, and none that came encoded."""
        for row, rejected in enumerate(verdict.rejected.tolist()):
            key = random.getrandbits(64)
            if not rejected:
                if key >= self.control_share * KEYS:
                    continue
                # Of those chosen, evenly over all keys again.
                key = min(int(key / self.control_share), KEYS - 1)
            kind: Kind = "rejected" if rejected else "control"
            with self.lock:
                window = self.windows.get((model.name, kind))
                if window is None:
                    window = self.windows[model.name, kind] = Window(self.per_minute, WAITING_BYTES)
                if not window.takes(key):
                    continue
                image = images[row]
                # A row of an array would keep the whole body.
                picture = image.data if isinstance(image, Upload) else image.copy()
                candidate = Candidate(
                    picture=picture,
                    kind=kind,
                    key=key,
                    request_id=request_id,
                    position=row + 1,
                    time=time.time(),
                    manifest=model.manifest,
                    postprocessor=choice.postprocessor,
                    alpha=choice.gate.alpha,
                    guarantee=choice.gate.guarantee,
                    p_value=float(verdict.p_values[row]),
                    probabilities=judged.probabilities[row].copy(),
                    scores=judged.scores[row].copy(),
                )
                window.add(key, candidate, picture.nbytes if isinstance(picture, np.ndarray) else len(picture))

    def run(self) -> None:
        # First of all what earlier processes left, which may be too old or too much.
        self.work()
        while not self.stopping.wait(self.window_seconds):
            self.work()
        self.work()

    def work(self) -> None:
        """Everything that is due. Raises nothing."""
        with self.lock:
            windows, self.windows = self.windows, {}
        waiting: list[Candidate] = []
        for (_, kind), window in windows.items():
            self.count[kind, "left_out"].inc(window.left_out)
            waiting += window.items()
        try:
            self.tidy()
            while waiting:
                if time.monotonic() > self.give_up_at:
                    raise TimeoutError("the server stops")
                kept = self.keep(waiting[0])
                self.count[waiting.pop(0).kind, "kept" if kept else "left_out"].inc()
        except Exception as exc:  # noqa: BLE001 -- whatever a store's library raises: it must cost a minute's pictures, never the thread
            for candidate in waiting:
                self.count[candidate.kind, "failed"].inc()
            if time.monotonic() - self.complained_at >= MINUTE:
                self.complained_at = time.monotonic()
                reason = (exc.strerror or str(exc)) if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}"
                log.error("capture: %d pictures were lost: %s", len(waiting), " ".join(reason.split())[:300])
        self.metrics.capture_bytes.set(self.ledger.nbytes)

    def tidy(self) -> None:
        """Removes what is too old or too much, whoever wrote it."""
        if time.monotonic() - self.listed_at >= LIST_SECONDS:
            self.ledger.read(unhurried(self.store.sizes().items()))
            self.listed_at = time.monotonic()
            self.remove(self.ledger.excess())
        limit = datetime.fromtimestamp(time.time() - self.ttl_seconds, UTC)
        self.remove(self.ledger.before(f"{limit:%Y-%m-%d}", f"{limit:%H%M%S}"))

    def keep(self, candidate: Candidate) -> bool:
        """Whether the budgets allow it."""
        held = candidate.held()
        # Before it's encoded, and once more with its size.
        if self.ledger.room(held) is None:
            return False
        about, picture = candidate.sidecar().model_dump_json(indent=1).encode(), candidate.png()
        held = replace(held, nbytes=len(about) + len(picture))
        if (going := self.ledger.room(held)) is None:
            return False
        self.remove(going)
        try:
            for name, data in zip(held.names, (about, picture), strict=True):
                self.store.write(name, data)
        except Exception:
            with suppress(Exception):
                self.store.remove(held.names)
            raise
        self.ledger.add(held)
        return True

    def remove(self, going: list[Held]) -> None:
        if going:
            self.store.remove(name for held in going for name in held.names)
            self.ledger.drop(going)


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """A thread that computes for a second would make the event loop wait 5 ms each time it is woken."""
    for place, item in enumerate(items, start=1):
        yield item
        if place % PAUSE_EVERY == 0:
            time.sleep(0.001)


def open_capture(settings: Settings, metrics: Metrics) -> Capture | None:
    """None where nothing is captured. Raises WrongSetting for a place that can never be written; one that cannot be reached now may be later."""
    if settings.capture_dir is None:
        return None
    try:
        store = open_store(settings.capture_dir)
        if isinstance(store, FolderStore):
            prepare(store.folder)
    except (NoStore, OSError) as exc:
        reason = (isinstance(exc, OSError) and exc.strerror) or exc
        raise WrongSetting(f"setting capture_dir is {settings.capture_dir!r}: {reason}") from None
    return Capture(store, settings, metrics)


def prepare(folder: Path) -> None:
    """Raises OSError where nothing can ever be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        # A disk that is full today is no reason not to serve.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
