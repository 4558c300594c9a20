"""How long all exportable scores take on 100,000 x 512 features, beside pytorch-ood's own; and what memory they need.

    python -m benchmarks.scoring --json benchmarks/results/scoring.json

Ours and theirs run in turns, in one process, on the same features in the same chunks, with the same neighbours and parameters
(`theirs.py`); seconds are those of the CPU, which a busy machine does not change much. Memory is the peak resident set of a
process of its own, its imports and the features themselves included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.postprocessors import REGISTRY, Outputs

CHUNK = 4096


def make_outputs(rows: int, head: nn.Linear, seed: int) -> Outputs:
    """Features as a ReLU gives them, about as far from their class's mean as the means are from each other."""
    generator = torch.Generator().manual_seed(seed)
    classes = head.out_features
    means = torch.randn(classes, head.in_features, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(rows) % classes
    features, logits = torch.empty(rows, head.in_features), torch.empty(rows, classes)
    for start in range(0, rows, 512):
        part = slice(start, min(start + 512, rows))
        features[part].normal_(generator=generator).mul_(1.5).add_(means[labels[part]]).relu_()
        logits[part] = head(features[part])
    return Outputs(features, logits, labels)


def make_head(width: int, classes: int = 10) -> nn.Linear:
    head = nn.Linear(width, classes)
    means = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    head.weight.copy_(means / width**0.5)
    head.bias.copy_(torch.linspace(-0.1, 0.1, classes))
    return head


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(run: Callable[[Tensor, Tensor], Tensor], outputs: Outputs) -> float:
    """CPU seconds for all rows, after one chunk to warm up: the median of three passes, or one if that takes long."""
    chunks = list(zip(outputs.features.split(CHUNK), outputs.logits.split(CHUNK), strict=True))
    run(*chunks[0])
    took: list[float] = []
    while len(took) < 3 and sum(took) < 5:
        start = time.process_time()
        for features, logits in chunks:
            run(features, logits)
        took.append(time.process_time() - start)
    return statistics.median(took)


def speed(rows: int) -> dict[str, Any]:
    from benchmarks.theirs import THEIRS, theirs

    head = make_head(512)
    train, validation, test = make_outputs(10_000, head, 1), make_outputs(1_000, head, 2), make_outputs(rows, head, 3)
    found: dict[str, Any] = {}
    for key, kind in REGISTRY.items():
        ours = kind()
        ours.fit(train, validation, head)
        found[key] = {"ours_s": seconds(ours, test)}
        if key in THEIRS:
            found[key]["theirs_s"] = seconds(theirs(key, ours, train, validation, head), test)
        print(key, {name: round(value, 3) for name, value in found[key].items()}, file=sys.stderr)
    return found


def memory(rows: int) -> dict[str, Any]:
    head = make_head(512)
    train, validation, test = make_outputs(10_000, head, 1), make_outputs(1_000, head, 2), make_outputs(rows, head, 3)
    for kind in REGISTRY.values():
        postprocessor = kind()
        postprocessor.fit(train, validation, head)
        for features, logits in zip(test.features.split(CHUNK), test.logits.split(CHUNK), strict=True):
            postprocessor(features, logits)
    return {"peak_mb": peak_megabytes()}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {"speed": speed, "memory": memory}


def run_part(part: str, rows: int) -> Any:
    command = [sys.executable, "-m", "benchmarks.scoring", "--part", part, "--rows", str(rows)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def combine(rows: int, scores: dict[str, Any], needed: dict[str, Any]) -> Any:
    shared = [entry for entry in scores.values() if "theirs_s" in entry]
    ours, other = (sum(entry[whose] for entry in shared) for whose in ("ours_s", "theirs_s"))
    return rounded(
        {
            "rows": rows,
            "threads": torch.get_num_threads(),
            "scores": scores,
            "shared": {"count": len(shared), "ours_s": ours, "theirs_s": other, "ratio": other / ours},
            "all": {"count": len(scores), "ours_s": sum(entry["ours_s"] for entry in scores.values())},
            "memory": needed,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.part:
        json.dump(PARTS[arguments.part](arguments.rows), sys.stdout)
        return
    result = combine(arguments.rows, run_part("speed", arguments.rows), run_part("memory", arguments.rows))
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
