"""The arguments of the offline command line, and what is wrong with them."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path

from service.bundle.manifest import NAME
from training.config import Recipe, TrainingError

HELP = {
    "data": "a folder with a directory per class (or train/ val/ test/ of such), Parquet, or a torchvision set by name",
    "validation": "pictures that choose the checkpoint, e.g. 'test.parquet#split=val'; default: the data's own, else a share",
    "calibration": "pictures that the thresholds rest on, as they will come in service; default: a share of the training pictures is set aside",
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
    "calibration_share": "of the training pictures, set aside for the thresholds; with 0 and no --calibration nothing can be exported",
    "calibration_limit": "at most this many are set aside for the thresholds",
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
    parser.add_argument("--alpha", type=ratio, default=0.05, help="share of ID images that may be rejected (default 0.05)")
    parser.add_argument("--delta", type=ratio, default=0.05, help="the promise may fail with this probability (default 0.05)")


def ratio(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def bundle_version(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


def bundle_name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of a-z 0-9 . _ -, which begins with a letter or a digit")
    return text


def named_places(entries: Sequence[str]) -> dict[str, str]:
    """NAME=PLACE arguments as a mapping."""
    places: dict[str, str] = {}
    for entry in entries:
        name, _, where = entry.partition("=")
        if not name or not where:
            raise TrainingError(f"{name!r} must be NAME=PLACE, e.g. svhn=data/svhn")
        if name in places:
            raise TrainingError(f"two sets are called {name!r}: {places[name]} and {where}")
        places[name] = where
    return places


def keys(entries: Sequence[str]) -> tuple[str, ...]:
    """Scores' keys, separated by spaces or commas."""
    return tuple(key for entry in entries for key in entry.split(",") if key)
