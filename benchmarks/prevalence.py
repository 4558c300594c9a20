"""How well the share of OOD pictures is estimated, on the committed bundle's own scores.

    python -m benchmarks.prevalence models/cifar10-airbench/1 --json benchmarks/results/prevalence.json

CIFAR-10 test pictures are mixed with strangers, without repetition, in many windows by chance; each window's estimate is held against its truth.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.bundle.decision import p_values
from service.model import open_model
from service.monitor import Prevalence
from service.settings import Settings
from training.sources import open_source

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bundle", type=Path)
parser.add_argument("--pictures", default="data/cifar10/test.parquet#openood_cifar10=test")
parser.add_argument("--ood", nargs="+", default=["data/chars74k", "data/mnist/test.parquet"])
parser.add_argument("--postprocessors", nargs="+", default=["ebo", "knn", "fdbd"])
parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.1, 0.3])
parser.add_argument("--runs", type=int, default=500)
parser.add_argument("--window", type=int, default=Settings.model_fields["prevalence_window"].default)
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()
model = open_model(arguments.bundle, Settings(device="cpu"))


def scores(where: str) -> NDArray[np.float32]:
    """Of all pictures there, by post-processor: (P, N)."""
    source = open_source(where)
    assert source is not None, f"there are no pictures in {where}"
    rows = range(0, len(source), 64)
    batches = [
        np.stack([source.pixels(row, model.manifest.input) for row in range(start, min(start + 64, len(source)))])
        for start in tqdm(rows, where, leave=False, disable=None)
    ]
    return np.concatenate([model.runtime.run(batch)[1] for batch in batches]).T


def windows(good: NDArray[np.float64], strangers: NDArray[np.float64], ood_ratio: float) -> dict[str, float]:
    """p-values of each -> how far the estimates are from the truth, in points, and in how many windows `lower` is above it."""
    random = np.random.default_rng(0)
    count = round(arguments.window * ood_ratio)
    errors, excesses, exceeded = [], [], []
    for _ in range(arguments.runs):
        prevalence = Prevalence(model.manifest.calibration.n, arguments.window)
        prevalence.observe(np.concatenate([random.choice(good, arguments.window - count, False), random.choice(strangers, count, False)]).tolist())
        share = prevalence.estimate()
        errors.append(100 * (share.ratio - ood_ratio))
        excesses.append((share.ratio - ood_ratio) / share.standard_error)
        exceeded.append(share.lower > ood_ratio)
    return {
        "mean_error_points": round(float(np.mean(errors)), 2),
        "largest_error_points": round(float(np.abs(errors).max()), 2),
        "at_least_above_truth": int(sum(exceeded)),
        "within_three_points": float(np.mean(np.abs(errors) <= 3)),
        "largest_excess_standard_errors": round(float(max(excesses)), 2),
    }


good, strange = scores(arguments.pictures), {Path(where.split("#")[0]).parts[1]: scores(where) for where in arguments.ood}
result: dict[str, Any] = {"window": arguments.window, "runs": arguments.runs, "calibration_images": model.manifest.calibration.n, "scores": {}}
for key in arguments.postprocessors:
    column = model.manifest.postprocessors.index(key)
    calibration = model.choose(key, None).calibration
    known = p_values(calibration, good[column])
    result["scores"][key] = {
        name: {f"{ratio:g}": windows(known, p_values(calibration, found[column]), ratio) for ratio in arguments.ratios}
        for name, found in strange.items()
    }
text = json.dumps(result, indent=1)
print(text)
if arguments.json:
    arguments.json.write_text(text + "\n")
