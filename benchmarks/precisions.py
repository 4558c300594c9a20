"""What fp32, fp16 and int8 cost and give: one run exported three times, each version calibrated and evaluated as it is served.

    python -m benchmarks.precisions runs/cifar10-elogitnorm --models-dir runs/precisions --json benchmarks/results/precisions.json

Speed is of the exported graphs alone, in turns in one process with the service's session options; ratios are those of the medians. Versions
that are in --models-dir already are measured and not exported again. Covariate-shifted pictures are left out: no score's AUROC needs them.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.hardware import hardware
from service.bundle.manifest import Bundle, load_bundle
from service.runtime import cpu_quota, open_session
from training.benchmarks import open_benchmark
from training.checkpoint import load_trained
from training.config import TrainingError
from training.export import Export, Precision, export

ALPHA = 0.05


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--benchmark", default="cifar10")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--models-dir", type=Path, required=True, help="where the three versions of the bundle `precisions` go")
    parser.add_argument("--default-postprocessor", default="ebo")
    parser.add_argument("--seconds", type=float, default=20, help="per batch size")
    parser.add_argument("--json", type=Path)
    return parser


def exported(arguments: argparse.Namespace) -> dict[Precision, Bundle]:
    """Versions 1, 2 and 3: one per precision."""
    trained = load_trained(arguments.run_folder)
    targets = dataclasses.replace(open_benchmark(arguments.benchmark, arguments.root), shifted={}, shifted_sets={})
    found = {}
    precisions: tuple[Precision, ...] = get_args(Precision)
    for version, precision in enumerate(precisions, start=1):
        folder = arguments.models_dir / "precisions" / str(version)
        asked = Export(
            "precisions", arguments.models_dir, version, default_postprocessor=arguments.default_postprocessor, alpha=ALPHA, precision=precision
        )
        found[precision] = load_bundle(folder if folder.exists() else export(arguments.run_folder, trained, targets, asked))
    return found


def milliseconds(bundles: Mapping[Precision, Bundle], batch: int, seconds: float) -> dict[Precision, float]:
    """The median time of one batch, the graphs in turns."""
    sessions = {precision: open_session(bundle.model, bundle.folder, "cpu", cpu_quota()) for precision, bundle in bundles.items()}
    size = next(iter(bundles.values())).manifest.input.size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    took: dict[Precision, list[float]] = {precision: [] for precision in sessions}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for precision, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"images": images})
            took[precision].append(1000 * (time.perf_counter() - start))
    return {precision: statistics.median(values) for precision, values in took.items()}


def quality(bundle: Bundle) -> dict[str, Any]:
    evaluation, default = bundle.evaluation, bundle.manifest.default_postprocessor
    judged = evaluation.postprocessors[default]
    point = next(point for point in judged.operating_points if (point.alpha, point.guarantee) == (ALPHA, "pac"))
    assert judged.near
    assert judged.far
    return {
        "model_bytes": len(bundle.model),
        "accuracy": evaluation.accuracy,
        "ece": evaluation.ece,
        "near_auroc": judged.near.auroc,
        "far_auroc": judged.far.auroc,
        "false_reject_ratio": point.measured_false_reject_ratio,
    }


def main() -> None:
    arguments = build_parser().parse_args()
    try:
        bundles = exported(arguments)
    except TrainingError as exc:
        sys.exit(f"precisions: {exc}")
    times = {batch: milliseconds(bundles, batch, arguments.seconds) for batch in (1, 32)}
    recipe = bundles["fp32"].manifest.training.recipe
    result = {
        "hardware": hardware(),
        "threads": cpu_quota(),
        "network": {key: recipe[key] for key in ("network", "width", "epochs", "loss")},
        "postprocessor": arguments.default_postprocessor,
        "incomplete": sorted(bundles["fp32"].evaluation.incomplete()),
        "precisions": {
            precision: quality(bundle)
            | {
                f"batch_{batch}": {"ms": round(found[precision], 4), "speed": round(found["fp32"] / found[precision], 3)}
                for batch, found in times.items()
            }
            for precision, bundle in bundles.items()
        },
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
