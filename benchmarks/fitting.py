"""What memory each exportable score's fit needs on 100,000 x 2048 features, with 10 and with 1000 classes.

    python -m benchmarks.fitting --json benchmarks/results/fitting.json        # half an hour on two cores

Every fit has a process of its own with one thread, whose peak resident set is told: Python, torch, the features (800 MB) and the logits (4 or
400 MB) included.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.scoring import make_head, make_outputs, peak_megabytes
from training.postprocessors import REGISTRY

WIDTH, CLASSES, VALIDATION = 2048, (10, 1000), 5_000
# A hundred heads of a thousand classes are 800 MB themselves, and two products of 100,000 rows with them take an hour.
LEFT_OUT = {("weiper", 1000)}


def fit(key: str, rows: int, classes: int) -> dict[str, float]:
    head = make_head(WIDTH, classes)
    train, validation = make_outputs(rows, head, 1), make_outputs(VALIDATION, head, 2)
    before = peak_megabytes()
    REGISTRY[key]().fit(train, validation, head)
    return {"before_mb": round(before), "peak_mb": round(peak_megabytes())}


def fit_apart(key: str, rows: int, classes: int) -> dict[str, float]:
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # as many buffers on every machine
    command = [sys.executable, "-m", "benchmarks.fitting", "--fit", key, "--classes", str(classes), "--rows", str(rows)]
    found: dict[str, float] = json.loads(subprocess.run(command, env=alone, stdout=subprocess.PIPE, check=True, text=True).stdout)
    print(f"{key}, {classes} classes: {found}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--scores", nargs="+", choices=REGISTRY, default=list(REGISTRY))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fit", choices=REGISTRY, help="this fit alone, in this process")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.fit:
        json.dump(fit(arguments.fit, arguments.rows, arguments.classes[0]), sys.stdout)
        return
    fits: dict[str, Any] = {
        key: {str(classes): fit_apart(key, arguments.rows, classes) for classes in arguments.classes if (key, classes) not in LEFT_OUT}
        for key in arguments.scores
    }
    result = {"rows": arguments.rows, "width": WIDTH, "fits": fits}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
