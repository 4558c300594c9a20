"""The offline command line: `oodgate-training train | evaluate | report | export`."""

import argparse
import dataclasses
import os
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from training.config import PRESETS, Recipe, TrainingError, default_run_folder

if typing.TYPE_CHECKING:
    from service.bundle.evaluation import Search
    from training.benchmarks import Targets
    from training.checkpoint import Trained

HELP = {
    "data": "a folder with a directory per class (or train/ val/ test/ of such), Parquet, or a torchvision set by name",
    "validation": "pictures that choose the checkpoint, e.g. 'test.parquet#split=val'; default: the data's own, else a share",
    "loss": "ce, logitnorm (tau 0.04) or elogitnorm",
    "network": "resnet18_32x32, airbench_32x32 (learns in few epochs), or torchvision's at 224",
    "width": "channels of the first stage of the networks at 32 pixels, at least 8, for airbench_32x32 at least 24",
    "size": "side of the network's input in pixels; default 32 or 224, as the network's name says",
    "pretrained": "start from torchvision's ImageNet weights",
    "initial": "run whose network to go on from, instead of random weights: fine-tuning",
    "epochs": "passes over the training pictures",
    "batch_size": "per process; the learning rate is not scaled with it",
    "lr": "the highest; cosine per step down to final_lr",
    "final_lr": "at the last step",
    "warmup_epochs": "the learning rate rises from nothing for so long, which large batches need",
    "momentum": "Nesterov momentum",
    "weight_decay": "on all parameters, the head included: with ELogitNorm it sets the temperature",
    "augmentation": "default: crop-flip at 32 pixels, resized-crop-flip at 224",
    "randaugment": "operations that RandAugment does to each picture; the OpenOOD leaderboard has 1, on ImageNet-1k 2",
    "randaugment_magnitude": "of RandAugment's operations, from 0 to 30; there 14, on ImageNet-200 10, on ImageNet-1k 9",
    "regmixup": "alpha of RegMixup; the OpenOOD leaderboard has 20 for CIFAR-10 and 10 for the others; 0 is without",
    "calibration_share": "of the training pictures, held out for the thresholds; 0 trains on all of them, and nothing can be exported",
    "calibration_limit": "at most this many are held out for the thresholds",
    "validation_share": "of the training pictures, where the data has no validation part",
    "validation_limit": "at most this many for that",
    "seed": "of the split, the initial weights, the order and the augmentation",
    "precision": "bf16 autocast or fp32, auto: bf16 where the device computes in it; losses are computed in fp32 either way",
    "compile": "torch.compile the network",
    "skip_unreadable": "leave unreadable pictures out and count them, instead of stopping",
}


def add_recipe(parser: argparse.ArgumentParser) -> None:
    hints = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        flag, kind = "--" + field.name.replace("_", "-"), hints[field.name]
        required = field.default is dataclasses.MISSING
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=False, help=HELP[field.name])
            continue
        options = [part for part in typing.get_args(kind) if part is not type(None)]
        choices = next((typing.get_args(part) for part in options if typing.get_args(part)), None) or (
            options if typing.get_origin(kind) is typing.Literal else None
        )
        base = str if choices else (options or [kind])[0]
        shown = "" if required or field.default is None else f" (default {field.default})"
        parser.add_argument(
            flag, type=base, choices=choices, required=required, default=None if required else field.default, help=HELP[field.name] + shown
        )


def run_train(arguments: argparse.Namespace) -> None:
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)})
    from training.processes import Stopped
    from training.train import train

    run = arguments.out or default_run_folder(recipe)
    try:
        best = train(recipe, run, arguments.resume)
    except Stopped as stop:
        print(stop)
        return
    if os.environ.get("RANK", "0") == "0":
        print(f"best validation accuracy {best:.4f}; the network is in {run}")


def named_places(entries: Sequence[str]) -> dict[str, str]:
    """NAME=PLACE arguments as a mapping."""
    places = dict(entry.partition("=")[::2] for entry in entries)
    for name, where in places.items():
        if not name or not where:
            raise TrainingError(f"{name!r} must be NAME=PLACE, e.g. svhn=data/svhn")
    return places


def keys(entries: Sequence[str]) -> tuple[str, ...]:
    """Scores' keys, separated by spaces or commas."""
    return tuple(key for entry in entries for key in entry.split(",") if key)


def open_targets(arguments: argparse.Namespace, recipe: Recipe) -> "Targets":
    from training.benchmarks import open_benchmark, open_own
    from training.parts import open_parts

    if arguments.benchmark:
        return open_benchmark(arguments.benchmark, arguments.root)
    parts = open_parts(recipe)
    near, far, shifted = named_places(arguments.near), named_places(arguments.far), named_places(arguments.shifted)
    if parts.test:
        return open_own(parts.test, f"the test part of {recipe.data}", arguments.ood_validation, near, far, shifted)
    print(
        f"NO TEST PICTURES: measured on the {len(parts.validation)} validation pictures, which chose the checkpoint and fitted the scores, "
        "so unseen ones will do worse; a test/ folder beside train/ is measured instead"
    )
    return open_own(parts.validation, f"the validation part of {recipe.data}", arguments.ood_validation, near, far, shifted)


def run_search(arguments: argparse.Namespace, trained: "Trained", targets: "Targets", keys: Sequence[str]) -> "Search | None":
    """What --search chooses, or None without it."""
    if not arguments.search:
        return None
    from training.features import FeatureCache
    from training.parts import open_parts
    from training.search import search

    return search(trained, open_parts(trained.recipe), FeatureCache(arguments.run_folder, trained), targets, keys)


def run_evaluate(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.evaluate import evaluate
    from training.postprocessors import REGISTRY
    from training.tables import print_evaluation

    trained = load_trained(arguments.run_folder)
    targets = open_targets(arguments, trained.recipe)
    asked = keys(arguments.postprocessors) or tuple(REGISTRY)
    found = run_search(arguments, trained, targets, asked)
    evaluation = evaluate(arguments.run_folder, trained, targets, asked, found)
    print_evaluation(evaluation)
    path = arguments.json or arguments.run_folder / "evaluation.json"
    if not targets.sources:
        print(f"there is no OOD set (--near or --far NAME=PLACE, or --benchmark), so no score is measured and {path} is not written")
        return
    path.write_text(evaluation.model_dump_json(indent=1) + "\n")
    print(f"written to {path}")


def run_report(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.postprocessors import REGISTRY
    from training.report import Page, report

    trained = load_trained(arguments.run_folder)
    page = Page(arguments.alpha, arguments.delta, arguments.beside, shlex.join(["oodgate-training", *arguments.argv]))
    out = arguments.out or arguments.run_folder / "report.html"
    targets = open_targets(arguments, trained.recipe)
    report(arguments.run_folder, trained, targets, keys(arguments.postprocessors) or tuple(REGISTRY), page, out)
    print(f"the report is {out}")


def run_export(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.export import Export, export
    from training.postprocessors import EXPORTED

    trained = load_trained(arguments.run_folder)
    asked = Export(
        name=arguments.name,
        models_dir=arguments.models_dir,
        version=arguments.version,
        postprocessors=keys(arguments.postprocessors) or EXPORTED,
        default_postprocessor=arguments.default_postprocessor,
        alpha=arguments.alpha,
        delta=arguments.delta,
        precision=arguments.precision,
    )
    targets = open_targets(arguments, trained.recipe)
    found = run_search(arguments, trained, targets, asked.postprocessors)
    print(f"the bundle is in {export(arguments.run_folder, trained, targets, asked, found)}")


def add_targets(parser: argparse.ArgumentParser, scores: str) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--benchmark", help="OpenOOD v1.5's sets: cifar10, cifar100, imagenet200 or imagenet1k")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the benchmark's sets lie (default data)")
    parser.add_argument("--near", action="append", default=[], metavar="NAME=PLACE", help="a near-OOD set of your own; repeatable")
    parser.add_argument("--far", action="append", default=[], metavar="NAME=PLACE", help="a far-OOD set of your own; repeatable")
    parser.add_argument("--shifted", action="append", default=[], metavar="NAME=PLACE", help="ID classes under covariate shift; repeatable")
    parser.add_argument("--ood-validation", metavar="PLACE", help="OOD pictures for the search and the release gate (there, default: shuffled ID)")
    parser.add_argument("--search", action="store_true", help="choose each score's hyper-parameters on OOD validation pictures, as OpenOOD's APS")
    parser.add_argument("--postprocessors", nargs="+", default=[], metavar="KEY", help=f"scores, separated by spaces or commas; default {scores}")


def add_promise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alpha", type=float, default=0.05, help="share of ID images that may be rejected (default 0.05)")
    parser.add_argument("--delta", type=float, default=0.05, help="the promise may fail with this probability (default 0.05)")


def build_parser(preset: str = "cifar") -> argparse.ArgumentParser:
    """The command line; a preset changes the defaults of `train`."""
    parser = argparse.ArgumentParser("oodgate-training", description="Train, evaluate and export image classifiers that can say no.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a network; the defaults are the paper's recipe")
    add_recipe(train)
    train.add_argument("--preset", choices=PRESETS, default="cifar", help="the paper's recipe for such a set; flags change it (default cifar)")
    train.set_defaults(**PRESETS[preset])
    train.add_argument("--out", type=Path, help="folder of the run (default runs/<data>-<network>-<loss>-s<seed>)")
    train.add_argument("--resume", action="store_true", help="go on from the run's last.pt, to the same result")
    train.set_defaults(run=run_train)
    evaluate = commands.add_parser("evaluate", help="evaluate every score of a run on OOD sets")
    add_targets(evaluate, "all but odin and iodin, which need the pictures and four times as long")
    evaluate.add_argument("--json", type=Path, help="where to write the table (default RUN/evaluation.json)")
    evaluate.set_defaults(run=run_evaluate)
    report = commands.add_parser("report", help="draw an evaluation: one HTML page that works offline")
    add_targets(report, "all but odin and iodin")
    report.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default RUN/report.html)")
    report.add_argument("--beside", type=Path, action="append", default=[], metavar="RUN", help="a run whose spectrum is drawn too; repeatable")
    add_promise(report)
    report.set_defaults(run=run_report)
    export = commands.add_parser("export", help="write a calibrated bundle that the service can load")
    add_targets(export, "the ten of the README")
    export.add_argument("--name", required=True, help="the bundle's name, e.g. cifar10-airbench")
    export.add_argument("--models-dir", type=Path, default=Path("models"), help="where bundles lie (default models)")
    export.add_argument("--version", type=int, help="default: one more than the newest")
    export.add_argument("--default-postprocessor", default="msp", metavar="KEY", help="the score that decides (default msp)")
    add_promise(export)
    export.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp16 stores weights in 16 bits (half the file, computed in fp32); int8 quantises the convolutions (default fp32)",
    )
    export.set_defaults(run=run_export)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    if "preset" in arguments:
        arguments = build_parser(arguments.preset).parse_args(argv)
    arguments.argv = sys.argv[1:] if argv is None else argv
    try:
        arguments.run(arguments)
    except TrainingError as exc:
        sys.exit(f"oodgate-training: {exc}")


if __name__ == "__main__":
    main()
