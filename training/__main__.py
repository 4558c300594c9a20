"""The offline command line: `oodgate-training train | evaluate | export`."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from training.config import Recipe, TrainingError, default_run_folder

HELP = {
    "data": "a folder with a directory per class (or train/ val/ test/ of such), Parquet, or a torchvision set by name",
    "validation": "pictures that choose the checkpoint, e.g. 'test.parquet#split=val'; default: the data's own, else a share",
    "loss": "ce, logitnorm (tau 0.04) or elogitnorm",
    "network": "resnet18_32x32, or torchvision's at 224",
    "width": "channels of the first stage of resnet18_32x32",
    "pretrained": "start from torchvision's ImageNet weights",
    "epochs": "passes over the training pictures",
    "batch_size": "per process; the learning rate is not scaled with it",
    "lr": "at the start; cosine per step down to final_lr",
    "final_lr": "at the last step",
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
    from training.train import Stopped, train

    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Recipe)})
    run = arguments.out or default_run_folder(recipe)
    try:
        best = train(recipe, run, arguments.resume)
    except Stopped as stop:
        print(stop)
        return
    print(f"best validation accuracy {best:.4f}; the network is in {run}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("oodgate-training", description="Train, evaluate and export image classifiers that can say no.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a network; the defaults are the paper's recipe")
    add_recipe(train)
    train.add_argument("--out", type=Path, help="folder of the run (default runs/<data>-<network>-<loss>-s<seed>)")
    train.add_argument("--resume", action="store_true", help="go on from the run's last.pt, to the same result")
    train.set_defaults(run=run_train)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except TrainingError as exc:
        sys.exit(f"oodgate-training: {exc}")


if __name__ == "__main__":
    main()
