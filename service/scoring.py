"""Pictures scored without a server, by the very steps that it takes: files, folders and URLs -> probabilities and raw scores."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from rich.console import Console
from rich.progress import Progress

from service.bundle.decision import Scores, TooFewCalibrationImages
from service.bundle.manifest import BundleError, find_versions
from service.bundle.preprocess import SUFFIXES, InvalidImage, Pixels, decode
from service.model import AlphaOutOfRange, TopKOutOfRange, UnknownPostprocessor
from service.models_dir import choose_default, find_bundles
from service.runtime import Runtime, WrongDevice, cpu_quota
from service.settings import Settings
from service.store import NoStore, is_url, open_store

# Pictures, but not for Pillow as it comes. What a folder holds beside pictures is not worth a word, these are.
OTHER_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
STANDARD_INPUT = "-"
# What shells expect of a command that Ctrl-C ended.
INTERRUPTED = 130


class NoPictures(Exception):
    """Nothing to work on, or too little."""


REFUSALS = (AlphaOutOfRange, BundleError, NoPictures, NoStore, TooFewCalibrationImages, TopKOutOfRange, UnknownPostprocessor, WrongDevice)


@dataclass(frozen=True)
class Scored:
    """One picture: probabilities (C,) and the raw scores of every post-processor (P,)."""

    name: str
    probabilities: Scores
    scores: Scores


def run(command: Callable[[], int]) -> int:
    """The exit code of a command; what it refuses is one sentence."""
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except REFUSALS as exc:
        print(f"oodgate: {exc}", file=sys.stderr)
        return 1


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


def expand(paths: Sequence[str]) -> list[str]:
    """Files as they are; of a folder or URL every picture below it, in order."""
    return [name for path in paths for name in pictures_below(path)]


def pictures_below(path: str) -> Iterator[str]:
    if is_url(path) and PurePosixPath(path).suffix.lower() not in SUFFIXES:
        try:
            names = sorted(open_store(path).sizes())
        except OSError as exc:
            raise NoPictures(f"{path} cannot be listed: {exc.strerror or exc}") from exc
        yield from (f"{path.rstrip('/')}/{name}" for name in names if is_picture(PurePosixPath(name)))
    elif path != STANDARD_INPUT and not is_url(path) and Path(path).is_dir():
        files = sorted(Path(path).rglob("*"))
        yield from (str(found) for found in files if is_picture(found) and found.is_file())
        if other := [file.suffix.lower() for file in files if file.suffix.lower() in OTHER_SUFFIXES]:
            named = " ".join(sorted(set(other)))
            print(f"{path}: {len(other)} pictures of formats that are not decoded are left out: {named}", file=sys.stderr)
    else:
        yield path


def is_picture(file: PurePath) -> bool:
    """By its name. Hidden ones are what systems keep beside pictures, such as ._x.jpg."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def read(name: str) -> bytes:
    """Raises OSError."""
    if name == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    if is_url(name):
        where, _, file = name.rpartition("/")
        return open_store(where).read(file)
    return Path(name).read_bytes()


def score(runtime: Runtime, names: Sequence[str], settings: Settings, unreadable: list[str]) -> Iterator[Scored]:
    """Every picture that can be read, in order. The others are told on standard error, and their names appended to `unreadable`."""
    spec, errors = runtime.bundle.manifest.input, Console(stderr=True)

    def decoded(name: str) -> Pixels:
        return decode(read(name), spec, settings.max_image_pixels)

    executor = ThreadPoolExecutor(cpu_quota(), thread_name_prefix="decode")
    remaining = iter(names)
    coming: deque[list[tuple[str, Future[Pixels]]]] = deque()
    with Progress(console=errors, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("scoring", total=len(names))
        try:
            while True:
                # One batch is decoded while the one before it is run.
                while len(coming) < 2 and (chunk := list(islice(remaining, settings.max_batch_size))):
                    coming.append([(name, executor.submit(decoded, name)) for name in chunk])
                if not coming:
                    return
                batch = coming.popleft()
                readable: list[tuple[str, Pixels]] = []
                for name, future in batch:
                    try:
                        readable.append((name, future.result()))
                    except (OSError, InvalidImage) as exc:
                        unreadable.append(name)
                        reason = (isinstance(exc, OSError) and exc.strerror) or exc
                        errors.print(f"oodgate: {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
                if readable:
                    probabilities, scores = runtime.run(np.stack([pixels for _, pixels in readable]))
                    for row, (name, _) in enumerate(readable):
                        yield Scored(name, probabilities[row], scores[row])
                progress.advance(task, len(batch))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
