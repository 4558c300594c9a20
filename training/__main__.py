"""The offline command line: `oodgate-training train | evaluate | export`."""

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from training.config import Recipe, TrainingError, default_run_folder

if typing.TYPE_CHECKING:
    from training.benchmarks import Targets

HELP = {
    "data": "a folder with a directory per class (or train/ val/ test/ of such), Parquet, or a torchvision set by name",
    "validation": "pictures that choose the checkpoint, e.g. 'test.parquet#split=val'; default: the data's own, else a share",
    "loss": "ce, logitnorm (tau 0.04) or elogitnorm",
    "network": "resnet18_32x32, airbench_32x32 (learns in few epochs), or torchvision's at 224",
    "width": "channels of the first stage of the networks at 32 pixels",
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
    "calibration_share": "of the training pictures, held out for the thresholds",
    "calibration_limit": "at most this many are held out for the thresholds",
    "validation_share": "of the training pictures, where the data has no validation part",
    "validation_limit": "at most this many for that",
    "seed": "of the split, the initial weights, the order and the augmentation",
    "precision": "bf16 autocast or fp32; losses are computed in fp32 either way",
    "compile": "torch.compile the network",
    "skip_unreadable": "leave unreadable pictures out and count them, instead of stopping",
}


def add_recipe(parser: argparse.ArgumentParser) -> None:
    hints = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        flag, kind = "--" + field.name.replace("_", "-"), hints[field.name]
        required = field.default is dataclasses.MISSING
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=HELP[field.name])
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
    from training.processes import Stopped
    from training.train import train

    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)})
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


def open_targets(arguments: argparse.Namespace, recipe: Recipe) -> "Targets":
    from training.benchmarks import open_benchmark, open_own
    from training.parts import open_parts

    if arguments.benchmark:
        return open_benchmark(arguments.benchmark, arguments.root)
    parts = open_parts(recipe)
    near, far = named_places(arguments.near), named_places(arguments.far)
    test, name = (parts.test, f"the test part of {recipe.data}") if parts.test else (parts.validation, f"the validation part of {recipe.data}")
    return open_own(test, name, arguments.ood_validation, near, far)


def run_evaluate(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.evaluate import evaluate, print_evaluation
    from training.postprocessors import REGISTRY

    trained = load_trained(arguments.run_folder)
    targets = open_targets(arguments, trained.recipe)
    evaluation = evaluate(arguments.run_folder, trained, targets, arguments.postprocessors or tuple(REGISTRY))
    print_evaluation(evaluation)
    path = arguments.json or arguments.run_folder / "evaluation.json"
    path.write_text(evaluation.model_dump_json(indent=1) + "\n")
    print(f"written to {path}")


def run_export(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.export import Export, export
    from training.postprocessors import REGISTRY

    trained = load_trained(arguments.run_folder)
    asked = Export(
        name=arguments.name,
        models_dir=arguments.models_dir,
        version=arguments.version,
        postprocessors=arguments.postprocessors or tuple(REGISTRY),
        default_postprocessor=arguments.default_postprocessor,
        alpha=arguments.alpha,
        delta=arguments.delta,
        weights=arguments.weights,
    )
    print(f"the bundle is in {export(arguments.run_folder, trained, open_targets(arguments, trained.recipe), asked)}")


def add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--benchmark", help="OpenOOD v1.5's sets for this ID set, e.g. cifar10")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the benchmark's sets lie (default data)")
    parser.add_argument("--near", action="append", default=[], metavar="NAME=PLACE", help="a near-OOD set of your own; repeatable")
    parser.add_argument("--far", action="append", default=[], metavar="NAME=PLACE", help="a far-OOD set of your own; repeatable")
    parser.add_argument("--ood-validation", metavar="PLACE", help="OOD pictures for the release gate; default: shuffled ID pictures")
    parser.add_argument("--postprocessors", nargs="+", metavar="KEY", help="scores; default all")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("oodgate-training", description="Train, evaluate and export image classifiers that can say no.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a network; the defaults are the paper's recipe")
    add_recipe(train)
    train.add_argument("--out", type=Path, help="folder of the run (default runs/<data>-<network>-<loss>-s<seed>)")
    train.add_argument("--resume", action="store_true", help="go on from the run's last.pt, to the same result")
    train.set_defaults(run=run_train)
    evaluate = commands.add_parser("evaluate", help="evaluate every score of a run on OOD sets")
    add_targets(evaluate)
    evaluate.add_argument("--json", type=Path, help="where to write the table (default RUN/evaluation.json)")
    evaluate.set_defaults(run=run_evaluate)
    export = commands.add_parser("export", help="write a calibrated bundle that the service can load")
    add_targets(export)
    export.add_argument("--name", required=True, help="the bundle's name, e.g. cifar10-resnet18")
    export.add_argument("--models-dir", type=Path, default=Path("models"), help="where bundles lie (default models)")
    export.add_argument("--version", type=int, help="default: one more than the newest")
    export.add_argument("--default-postprocessor", default="msp", metavar="KEY", help="the score that decides (default msp)")
    export.add_argument("--alpha", type=float, default=0.05, help="share of ID images that may be rejected (default 0.05)")
    export.add_argument("--delta", type=float, default=0.05, help="the promise may fail with this probability (default 0.05)")
    export.add_argument("--weights", choices=("fp32", "fp16"), default="fp32", help="how the graph stores them; fp16 halves the file (default fp32)")
    export.set_defaults(run=run_export)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except TrainingError as exc:
        sys.exit(f"oodgate-training: {exc}")


if __name__ == "__main__":
    main()
