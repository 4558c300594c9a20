"""The command line: `oodgate serve`, `predict`, `calibrate`, `bench`. Heavy imports wait until a command needs them."""

import argparse
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from service import __version__
from service.settings import Settings, WrongSetting, flag, load_settings

T = TypeVar("T")
OFFLINE_SETTINGS = ("models_dir", "model", "device", "alpha", "guarantee", "intra_op_threads", "max_image_pixels")
PICTURES = "picture, folder (searched recursively, hidden files left out), URL such as s3://bucket/folder"
BENCH_SETTINGS = (*OFFLINE_SETTINGS, "postprocessor", "max_batch_size", "max_queue_delay_ms", "max_queue_size")


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    if options.command == "serve":
        # Importing takes seconds, and the first process of a container is sent no signal for which it has no handler. Keys and models
        # are read after this, so a SIGHUP has nothing to do yet. uvicorn puts SIGTERM's back once it has ended, with nothing left to drain.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields and value is not None}
    try:
        settings = load_settings(**given)
    except WrongSetting as exc:
        return fail(exc)
    if options.command == "serve":
        from service.serve import serve

        return serve(settings)
    if options.command == "bench":
        from service.bench import Plan, bench

        load = (options.connections, options.rate, options.share, options.seconds, options.warm_seconds)
        return bench(settings, options.paths, Plan(options.url, options.header, *load, options.json))
    from service import scoring

    return scoring.run(partial(offline, settings, options))


def offline(settings: Settings, options: argparse.Namespace) -> int:
    if options.command == "predict":
        from service.pictures import predict

        return predict(settings, options.paths, options.version, options.top_k, options.fdr, options.json)
    if options.command == "replay":
        from service.replay import Candidate, Output, replay

        candidate = Candidate(**{key.removeprefix("candidate_"): value for key, value in vars(options).items() if key.startswith("candidate_")})
        return replay(settings, options.version, candidate, options.paths, Output(options.html, options.json))
    from service.calibrate import Wanted, calibrate

    return calibrate(settings, Wanted(options.paths, options.version, options.per_class, options.description))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("oodgate", description='An image classifier that knows when to say "I don\'t know".')
    parser.add_argument("--version", action="version", version=f"oodgate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve", help="answer POST /predict over HTTP", epilog="Every flag is also an environment variable: OODGATE_MODELS_DIR …"
    )
    add_settings(serve, tuple(Settings.model_fields))
    predict = commands.add_parser("predict", help="classify files and folders, as the server would")
    predict.add_argument("paths", nargs="+", metavar="PATH", help=f"{PICTURES}, or - for a picture on standard input")
    add_settings(predict, (*OFFLINE_SETTINGS, "postprocessor"))
    predict.add_argument("--version", type=int, help="version of the model; the highest if left out")
    predict.add_argument("--top-k", type=int, help="classes to list")
    predict.add_argument(
        "--fdr",
        type=share,
        metavar="SHARE",
        help="judge all pictures together instead of each by alpha: on average at most this share of those flagged is fine (Benjamini-Hochberg)",
    )
    predict.add_argument("--json", action="store_const", const="json", default="table", help="one JSON object per picture instead of a table")
    calibrate = commands.add_parser("calibrate", help="new ID pictures -> a new version of a bundle, with the same graph and new thresholds")
    calibrate.add_argument("paths", nargs="+", metavar="PATH", help=f"{PICTURES}: pictures as they will come, none used in training")
    add_settings(calibrate, OFFLINE_SETTINGS)
    calibrate.add_argument("--version", type=int, help="version whose graph it is; the highest if left out")
    calibrate.add_argument(
        "--per-class",
        action=argparse.BooleanOptionalAction,
        help="a threshold for each predicted class that has enough pictures, and one for the rest; as in the version before if left out",
    )
    calibrate.add_argument("--description", help="what the pictures are, for the manifest; the paths if left out")
    replay = commands.add_parser("replay", help="captured or any pictures, decided as now and by a candidate: what would change")
    replay.add_argument("paths", nargs="+", metavar="PATH", help=PICTURES)
    add_settings(replay, (*OFFLINE_SETTINGS, "postprocessor"))
    replay.add_argument("--version", type=int, help="version that is served now; the highest if left out")
    other = replay.add_mutually_exclusive_group()
    other.add_argument("--candidate-version", type=int, help="another version of the model")
    other.add_argument("--candidate-bundle", dest="candidate_folder", type=Path, help="folder of a bundle, <name>/<version>, anywhere")
    replay.add_argument("--candidate-postprocessor", help="another score")
    replay.add_argument("--candidate-alpha", type=share, help="another alpha")
    replay.add_argument("--candidate-guarantee", choices=("pac", "marginal"), help="another guarantee")
    replay.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a thumbnail of each picture that changes")
    replay.add_argument("--json", action="store_true", help="one JSON object per picture instead of a table of those that change")
    bench = commands.add_parser("bench", help="measure throughput and waiting times of a running server, or of this machine without one")
    add_bench(bench)
    add_settings(bench, BENCH_SETTINGS)
    return parser


def add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="pictures to send in turn; folders are searched recursively")
    parser.add_argument("--url", type=address, help="where to POST them, e.g. http://127.0.0.1:8000/predict; left out: in this process, without HTTP")
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="to send along, e.g. an API key; repeatable"
    )
    parser.add_argument(
        "--connections",
        type=from_1,
        nargs="*",
        default=[1, 8, 32],
        metavar="N",
        help="closed loop: N callers, each asking again at once; none: a --rate alone",
    )
    parser.add_argument("--rate", type=above_0, nargs="+", default=[], metavar="R", help="open loop: R requests in a second, at random moments")
    parser.add_argument("--share", type=above_0, nargs="+", default=[], metavar="S", help="open loop at this share of the best throughput found")
    parser.add_argument("--seconds", type=above_0, default=10, help="of each measurement [default: 10]")
    parser.add_argument("--warm-seconds", type=from_0, default=1, help="before each, not counted [default: 1]")
    parser.add_argument("--json", type=Path, help="file for the figures")


def add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    """A flag for each setting, left unparsed: Settings parses both flags and environment."""
    for name in names:
        field = Settings.model_fields[name]
        default: Any = field.default
        shown = "" if default in (None, ()) else f" [default: {default}]"
        # A flag that is either given or not still takes a value, as its variable does: --watch false.
        optional: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        what = f"{field.description}{shown}".replace("%", "%%")
        parser.add_argument(flag(name), dest=name, metavar=name.rsplit("_", 1)[-1].upper(), help=what, **optional)


def allowed(what: str, read: Callable[[str], T], holds: Callable[[T], bool]) -> Callable[[str], T]:
    """An argument's type: reads what holds, and of all else says what would."""

    def parse(text: str) -> T:
        with suppress(ValueError):
            if holds(value := read(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parse


def is_address(text: str) -> bool:
    where = urlsplit(text)
    return where.scheme in ("http", "https") and (where.hostname or "").encode("idna") != b"" and where.port != 0 and not re.search(r"\s", text)


share = allowed("between 0 and 1", float, lambda value: 0 < value < 1)
above_0 = allowed("a number above 0", float, lambda value: 0 < value < math.inf)
from_0 = allowed("a number from 0 on", float, lambda value: 0 <= value < math.inf)
from_1 = allowed("a whole number from 1 on", int, lambda value: value >= 1)
address = allowed("http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535", str, is_address)
header = allowed("NAME: VALUE on one line", str, lambda text: re.fullmatch(r"[!#-'*+.^`|~\w-]+:[^\r\n\0]*", text, re.ASCII) is not None)


def fail(exc: BaseException) -> int:
    """One sentence for the operator; no traceback."""
    print(f"oodgate: {exc}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
