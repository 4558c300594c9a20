"""`oodgate predict`: files and folders through the very path that the server takes, hence with the same answers."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from service.bundle.decision import TooFewCalibrationImages
from service.bundle.manifest import BundleError, find_versions
from service.bundle.preprocess import SUFFIXES
from service.decoder import Decoder, RefusedImage, Upload
from service.model import AlphaOutOfRange, Model, TopKOutOfRange, UnknownPostprocessor, open_model
from service.repository import choose_default, find_bundles
from service.runtime import WrongDevice, cpu_quota
from service.schemas import Answer
from service.settings import Settings

STANDARD_INPUT = "-"
DAY_SECONDS = 86_400
# What shells expect of a command that Ctrl-C ended.
INTERRUPTED = 130


class Unreadable(Exception):
    """A picture that has no answer."""


def predict(settings: Settings, paths: list[str], version: int | None, top_k: int | None, output: Literal["table", "json"]) -> int:
    """Answers every picture that can be; 1 when one could not, or nothing could be loaded."""
    try:
        return asyncio.run(answer_all(settings, paths, version, top_k, output))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BundleError, WrongDevice, TooFewCalibrationImages, UnknownPostprocessor, AlphaOutOfRange, TopKOutOfRange) as exc:
        print(f"oodgate: {exc}", file=sys.stderr)
        return 1


async def answer_all(settings: Settings, paths: list[str], version: int | None, top_k: int | None, output: Literal["table", "json"]) -> int:
    names = [name for path in paths for name in expand(path)]
    write = JsonLines() if output == "json" else PrettyTable()
    failed = 0
    errors = Console(stderr=True)
    folder = find_folder(settings, version)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(open_model(folder, settings))
        top_k = model.check_top_k(top_k)
        decoder = stack.enter_context(Decoder(cpu_quota(), settings.max_image_pixels))
        progress = stack.enter_context(Progress(console=errors, transient=True, disable=not sys.stderr.isatty()))
        task = progress.add_task("classifying", total=len(names))
        remaining = iter(names)
        # As many at once as fill a batch while the next one is decoded.
        while chunk := list(islice(remaining, min(2 * settings.max_batch_size, settings.max_queue_size))):
            results = await asyncio.gather(*(answer(model, decoder, name, top_k) for name in chunk), return_exceptions=True)
            for result in results:
                if isinstance(result, Answer):
                    write.add(result)
                elif isinstance(result, Unreadable):
                    failed += 1
                    errors.print(f"oodgate: {result}", markup=False, highlight=False, soft_wrap=True)
                else:
                    raise result
            progress.advance(task, len(chunk))
    write.close()
    return 1 if failed else 0


def expand(path: str) -> Iterator[str]:
    """A file as it is; of a folder every picture below it, in order."""
    if path != STANDARD_INPUT and Path(path).is_dir():
        yield from (str(found) for found in sorted(Path(path).rglob("*")) if found.suffix.lower() in SUFFIXES and found.is_file())
    else:
        yield path


def find_folder(settings: Settings, version: int | None) -> Path:
    """The bundle that a server with these settings would load, or another version of it."""
    newest = find_bundles(settings.models_dir)
    name = choose_default(newest, settings)
    if version is None:
        return newest[name][max(newest[name])]
    versions = find_versions(settings.models_dir)[name]
    if version not in versions:
        raise BundleError(f"{name} has no version {version}, it has {', '.join(map(str, versions))}")
    return versions[version]


async def answer(model: Model, decoder: Decoder, name: str, top_k: int) -> Answer:
    try:
        data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
        with model.batcher.admit(1, time.monotonic() + DAY_SECONDS) as place:
            answered = await model.batcher.answer(place, await decoder.decode([Upload(data)], model.manifest.input, place))
    except OSError as exc:
        raise Unreadable(f"{name}: {exc.strerror}") from None
    except RefusedImage as exc:
        raise Unreadable(f"{name}: {exc}") from None
    probabilities, scores = answered.outputs
    verdict = model.judge(scores, model.default)
    return model.answer(probabilities, scores, verdict, model.default, top_k, [name])


class JsonLines:
    """One answer per line, as the server would give it, with the path as file name."""

    def add(self, answer: Answer) -> None:
        print(answer.model_dump_json())

    def close(self) -> None:
        sys.stdout.flush()


class PrettyTable:
    """A table at the end, its columns as wide as they need to be."""

    def __init__(self) -> None:
        self.table = Table(Column("picture", overflow="fold"), "label", "probability", "p-value", "decision")
        self.captions: set[str] = set()

    def add(self, answer: Answer) -> None:
        prediction = answer.predictions[0]
        decision = "[red]rejected" if prediction.ood.rejected else "accepted"
        name = escape(str(prediction.filename))
        self.table.add_row(name, escape(prediction.label), f"{prediction.probability:.3f}", f"{prediction.ood.p_value:.3f}", decision)
        self.captions.add(f"{answer.model} version {answer.version}, {answer.postprocessor} at alpha {answer.alpha:g} ({answer.guarantee})")

    def close(self) -> None:
        self.table.caption = "; ".join(sorted(self.captions))
        # Rich takes a file or a pipe for 80 columns wide, which would cut paths to pieces.
        Console(width=None if sys.stdout.isatty() else 200).print(self.table)
