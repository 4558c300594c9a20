"""`oodgate bench`: how fast a running server answers, or this machine without one; closed loop and open, as a table and as JSON."""

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.admission import QueueFull
from service.connection import server
from service.decoder import Decoder, RefusedImage, Upload
from service.load import LOST, OK, Caller, Outcome, Run, Target, closed_loop, open_loop
from service.model import Model, open_warm
from service.runtime import cpu_quota
from service.schemas import Answer
from service.scoring import INTERRUPTED, REFUSALS, NoPictures, expand, find_folder
from service.settings import Settings
from service.verdict import Judged


@dataclass(frozen=True)
class Plan:
    """What to measure. rates: requests in a second; shares: of the closed loop's best throughput."""

    url: str | None
    headers: Sequence[str]
    connections: Sequence[int]
    rates: Sequence[float]
    shares: Sequence[float]
    seconds: float
    warm_seconds: float
    json: Path | None


def bench(settings: Settings, paths: list[str], plan: Plan) -> int:
    """1 when nothing could be measured, or some requests were lost."""
    try:
        if not plan.connections and (plan.shares or not plan.rates):
            raise NoPictures("without --connections only a --rate can be measured")
        names = expand(paths)
        if not names:
            raise NoPictures(f"{', '.join(paths)}: no pictures there")
        target = server(plan.url, [Path(name).read_bytes() for name in names], plan.headers) if plan.url else in_process(settings, names)
        if plan.json is not None:
            # Whether that works is better known before minutes of measuring.
            plan.json.open("a").close()
        outcomes = measure(target, plan)
        show(outcomes)
        if plan.json is not None:
            plan.json.write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1) + "\n")
        if not any(str(OK) in outcome.statuses for outcome in outcomes):
            raise NoPictures("no request was answered with 200")
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as exc:
        print(f"oodgate: {exc.filename or plan.url}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    except REFUSALS as exc:
        print(f"oodgate: {exc}", file=sys.stderr)
        return 1
    return 1 if any(str(LOST) in outcome.statuses for outcome in outcomes) else 0


def measure(target: Target, plan: Plan) -> list[Outcome]:
    outcomes = [closed_loop(target, callers, plan.seconds, plan.warm_seconds) for callers in plan.connections]
    best = max((outcome.answered_per_second for outcome in outcomes), default=0.0)
    if plan.shares and not best:
        raise NoPictures("no request was answered with 200, so there is no throughput to take a share of")
    rates = [*plan.rates, *(share * best for share in plan.shares)]
    return outcomes + [open_loop(target, rate, plan.seconds, plan.warm_seconds) for rate in rates]


class InProcess:
    """A caller that goes the server's way, without HTTP: decode, queue, inference, decision."""

    def __init__(self, load: Run, model: Model, decoder: Decoder, names: Sequence[str]) -> None:
        self.load = load
        self.model = model
        self.decoder = decoder
        self.names = cycle(names)
        self.top_k = model.check_top_k(None)

    def send(self, due: float) -> None:
        self.task = asyncio.ensure_future(self.ask(due))

    async def ask(self, due: float) -> None:
        status = OK
        try:
            await answer(self.model, self.decoder, next(self.names), self.top_k)
        except QueueFull:
            status = 429
        except NoPictures:
            status = 422
        self.load.done(self, due, status, time.perf_counter())


async def answer(model: Model, decoder: Decoder, name: str, top_k: int) -> Answer:
    """What the server does for one picture, but for HTTP. Raises NoPictures."""
    try:
        data = Path(name).read_bytes()
        with model.batcher.admit(1, time.monotonic() + model.settings.request_deadline_ms / 1000) as place:
            answered = await model.batcher.answer(place, await decoder.decode([Upload(data)], model.manifest.input, place))
    except OSError as exc:
        raise NoPictures(f"{name}: {exc.strerror}") from None
    except RefusedImage as exc:
        raise NoPictures(f"{name}: {exc}") from None
    judged = Judged.of(*answered.outputs)
    return model.answer(judged.probabilities, judged.scores, judged.own, model.default, top_k, [name])


def in_process(settings: Settings, names: Sequence[str]) -> Target:
    for name in names:
        Path(name).open("rb").close()
    folder = find_folder(settings, None)

    @asynccontextmanager
    async def target() -> AsyncIterator[Callable[[Run], Awaitable[Caller]]]:
        async with open_warm(folder, settings) as model:
            with Decoder(cpu_quota(), settings.max_image_pixels) as decoder:

                async def make(load: Run) -> Caller:
                    return InProcess(load, model, decoder, names)

                yield make

    return target


def show(outcomes: Sequence[Outcome]) -> None:
    table = Table("load", "answered/s", "p50 ms", "p90", "p99", "p99.9", "max", "other statuses")
    for outcome in outcomes:
        asked, took = outcome.asked, outcome.answered_ms
        load = f"{asked['connections']} connections" if "connections" in asked else f"{asked['rate']:g}/s"
        others = ", ".join(
            f"{number} x {status if status != str(LOST) else 'lost'}" for status, number in outcome.statuses.items() if status != str(OK)
        )
        cells = [f"{took[name]:.2f}" if took else "-" for name in ("p50", "p90", "p99", "p99_9", "max")]
        table.add_row(load, f"{outcome.answered_per_second:.1f}", *cells, others)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
