"""The paper's CIFAR-10 comparison: trains each loss with several seeds, evaluates every score, writes a page of results.

    python -m benchmarks.reproduce                                  # the paper's size: for a GPU
    python -m benchmarks.reproduce --width 16 --epochs 10           # what CPUs allow; the page's first line says so

Protocol of OpenOOD v1.5: trained on all 50,000 pictures, the checkpoint chosen on 1,000 of the test pictures, tested on the
other 9,000. A killed run goes on where it was when the command is given again. Two more losses settle what the paper and the
authors' code leave open: `elogitnorm-others` (D(z) as the mean over the C - 1 other classes) and `elogitnorm-detached` (no
gradient through the distances between the head's rows).
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.hardware import hardware
from benchmarks.page import write
from benchmarks.reproduction import Reproduction, Run, without_places
from service.bundle.evaluation import Evaluation
from training import checkpoint
from training.benchmarks import Targets, open_benchmark
from training.boundary import scaled_logits, weight_distances
from training.checkpoint import Trained, code_version, load_trained
from training.config import LossName, Recipe, TrainingError
from training.evaluate import evaluate
from training.features import FeatureCache
from training.files import write_text
from training.losses import Loss
from training.parts import open_parts
from training.postprocessors import EVALUATED_ONLY, REGISTRY
from training.processes import Stopped
from training.search import search
from training.train import train


def over_others(logits: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """ELogitNorm with the paper's 1 / (C - 1), where the authors' code and ours have 1 / C."""
    count = logits.shape[1]
    return functional.cross_entropy(scaled_logits(logits.float(), weight_distances(head.weight)) * (count - 1) / count, labels)


def detached(logits: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """ELogitNorm without a gradient through the distances between the head's rows."""
    return functional.cross_entropy(scaled_logits(logits.float(), weight_distances(head.weight.detach())), labels)


# The recipe's loss, which also says how probabilities are made, and the function that is trained on if it is another.
VARIANTS: dict[str, tuple[LossName, Loss | None]] = {
    "ce": ("ce", None),
    "logitnorm": ("logitnorm", None),
    "elogitnorm": ("elogitnorm", None),
    "elogitnorm-others": ("elogitnorm", over_others),
    "elogitnorm-detached": ("elogitnorm", detached),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=VARIANTS, default=["ce", "logitnorm", "elogitnorm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--gradient-scores",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help=f"evaluate {' and '.join(EVALUATED_ONLY)} too, four times as long as the network (default: where there is a GPU)",
    )
    parser.add_argument(
        "--search",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="choose hyper-parameters on OOD validation pictures, as the published numbers were (default)",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the sets lie (default data)")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of the runs (default runs/reproduce)")
    parser.add_argument("--page", type=Path, default=Path("benchmarks/results/cifar10.md"), help="the page; its numbers lie beside it as JSON")
    return parser


def seconds_trained(run: Path, images: int) -> float:
    """Of the steps of all epochs, whether the run was stopped and resumed or not."""
    speeds = {event.step: event.value for event in EventAccumulator(str(run)).Reload().Scalars("images_per_second")}
    return sum(images / speed for speed in speeds.values())


def at_last(run: Path) -> Trained:
    """The network after the last epoch, where `load_trained` gives the best."""
    trained, state = load_trained(run), checkpoint.read(run / "last.pt")
    trained.network.load_state_dict(state["network"])
    return dataclasses.replace(trained, epoch=state["epoch"])


def evaluated(run: Path, name: str, load: Callable[[Path], Trained], targets: Targets, keys: tuple[str, ...], searching: bool) -> Evaluation:
    """From the file that an earlier call for the same scores and sets left, or anew. Features of every set take gigabytes at full size
    and are not kept.
    """
    file = run / f"evaluation-{name}.json"
    if file.exists():
        kept = Evaluation.model_validate_json(file.read_bytes())
        if (list(kept.postprocessors), kept.ood_sets, kept.search is not None) == (list(keys), targets.ood_sets, searching):
            return kept
    with TemporaryDirectory(dir=run) as scratch:
        trained = load(run)
        cache = FeatureCache(Path(scratch), trained)
        choices = search(trained, open_parts(trained.recipe), cache, targets, keys) if searching else None
        found = evaluate(Path(scratch), trained, targets, keys, choices)
    write_text(file, found.model_dump_json(indent=1) + "\n")
    return found


def reproduce(arguments: argparse.Namespace, command: str) -> Reproduction:
    data = arguments.root / "cifar10"
    targets = open_benchmark("cifar10", arguments.root)
    if arguments.search and targets.ood_validation is None:
        raise TrainingError("there are no OOD validation pictures to search on: --no-search takes each score's defaults")
    keys = (*REGISTRY, *(EVALUATED_ONLY if arguments.gradient_scores else ()))
    runs = []
    for seed in arguments.seeds:
        for variant in arguments.losses:
            loss, function = VARIANTS[variant]
            recipe = Recipe(
                data=str(data),
                validation=f"{data}/test.parquet#openood_cifar10=val",
                loss=loss,
                width=arguments.width,
                epochs=arguments.epochs,
                calibration_share=0,
                seed=seed,
                compile=arguments.compile,
            )
            folder = arguments.out / f"{variant}-w{arguments.width}-e{arguments.epochs}-s{seed}"
            print(f"--- {variant}, seed {seed}: {folder}", flush=True)
            train(recipe, folder, resume=True, loss=function)
            best = evaluated(folder, "best", load_trained, targets, keys, arguments.search)
            # Which checkpoint is better is asked of accuracy and MSP alone.
            last = evaluated(folder, "last", at_last, targets, ("msp",), searching=False)
            runs.append(Run(variant=variant, seed=seed, seconds=seconds_trained(folder, len(open_parts(recipe).train)), best=best, last=last))
    return Reproduction(
        command=command,
        code_version=code_version(),
        hardware=hardware(),
        width=arguments.width,
        epochs=arguments.epochs,
        runs=tuple(runs),
    )


def main() -> None:
    arguments = build_parser().parse_args()
    try:
        found = reproduce(arguments, without_places(shlex.join(["python", "-m", "benchmarks.reproduce", *sys.argv[1:]])))
    except Stopped as stop:
        sys.exit(f"{stop}: give the same command again")
    except TrainingError as exc:
        sys.exit(f"reproduce: {exc}")
    write(found, arguments.page)
    print(f"written to {arguments.page}")


if __name__ == "__main__":
    main()
