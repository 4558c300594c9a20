"""The offline command line: `oodgate-training train | evaluate | report | export`."""

import argparse
import dataclasses
import os
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from training.arguments import add_promise, add_recipe, add_targets, bundle_name, bundle_version, keys, named_places
from training.config import PRESETS, Recipe, TrainingError, default_run_folder

if typing.TYPE_CHECKING:
    from service.bundle.evaluation import Search
    from training.benchmarks import Targets
    from training.checkpoint import Trained


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


def open_targets(arguments: argparse.Namespace, recipe: Recipe) -> "Targets":
    from training.benchmarks import open_benchmark, open_own
    from training.parts import open_parts, without

    if arguments.benchmark:
        if own := [flag for flag in ("near", "far", "shifted", "ood_validation") if getattr(arguments, flag)]:
            raise TrainingError(f"--benchmark {arguments.benchmark} brings all its sets, leave out --{' --'.join(own).replace('_', '-')}")
        return open_benchmark(arguments.benchmark, arguments.root)
    parts = open_parts(recipe)
    near, far, shifted = named_places(arguments.near), named_places(arguments.far), named_places(arguments.shifted)
    # No name twice in all of them either.
    named_places([*arguments.near, *arguments.far, *arguments.shifted])
    if parts.test:
        test = without(without(parts.test, parts.validation), parts.calibration)
        if not len(test):
            raise TrainingError(f"all {len(parts.test)} test pictures of {recipe.data} chose the checkpoint or calibrate, none is left to measure on")
        if len(test) < len(parts.test):
            print(f"{len(parts.test) - len(test)} of {len(parts.test)} test pictures chose the checkpoint or calibrate, and are left out")
        return open_own(test, f"the test part of {recipe.data}", arguments.ood_validation, near, far, shifted)
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
    from training.files import write_text
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
        said = f"there is no OOD set (--near or --far NAME=PLACE, or --benchmark), so no score is measured and {path} is not written"
        if arguments.json:
            raise TrainingError(said)
        print(said)
        return
    write_text(path, evaluation.model_dump_json(indent=1) + "\n")
    print(f"written to {path}")


def run_report(arguments: argparse.Namespace) -> None:
    from training.checkpoint import load_trained
    from training.postprocessors import REGISTRY
    from training.report import Page, report

    trained = load_trained(arguments.run_folder)
    page = Page(arguments.alpha, arguments.delta, arguments.beside, shlex.join(["oodgate-training", *arguments.argv]))
    out = arguments.out or arguments.run_folder / "report.html"
    targets = open_targets(arguments, trained.recipe)
    asked = keys(arguments.postprocessors) or tuple(REGISTRY)
    report(arguments.run_folder, trained, targets, asked, page, out, run_search(arguments, trained, targets, asked))
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
    export.add_argument("--name", type=bundle_name, required=True, help="the bundle's name, e.g. cifar10-airbench")
    export.add_argument("--models-dir", type=Path, default=Path("models"), help="where bundles lie (default models)")
    export.add_argument("--version", type=bundle_version, help="default: one more than the newest")
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
    except KeyboardInterrupt:
        # What shells expect of a command that Ctrl-C ended.
        sys.exit(130)


if __name__ == "__main__":
    main()
