"""What being watched costs a request with one picture: metrics, drift alarm, prevalence, and what feedback must remember.

    python benchmarks/instrumentation.py models/cifar10-airbench/1 --json benchmarks/results/instrumentation.json

Each part is called as the server calls it, on real objects, with probabilities and scores of the bundle's golden pictures. Microseconds: the
least of several rounds, which is what the code takes when nothing else runs.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from starlette.requests import Request

from benchmarks.hardware import hardware
from service.context import Timing
from service.counting import count
from service.feedback import Answered, Recent
from service.metrics import Metrics
from service.model import open_model
from service.settings import Settings
from service.verdict import Judged, judge
from service.watch import Watch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bundle", type=Path)
parser.add_argument("--rounds", type=int, default=60)
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()

CALLS = 2000
model = open_model(arguments.bundle, Settings(device="cpu"))
metrics, recent = Metrics(), Recent[Watch](10_000)
metrics.describe(model)
golden = np.load(arguments.bundle / "golden.npz")
verdicts = [golden["probabilities"][row : row + 1] for row in range(32)], [golden["scores"][row : row + 1] for row in range(32)]
pictures = list(zip(*verdicts, strict=True))
app = SimpleNamespace(context=SimpleNamespace(metrics=metrics, recent=recent, capture=None))
request = Request({"type": "http", "app": app, "state": {"timing": Timing()}})
decided = [Judged(probabilities, scores, judge(probabilities, scores, model.default)) for probabilities, scores in pictures]


def microseconds(part: Callable[[int], object]) -> float:
    """What a call takes."""
    found = []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        for call in range(CALLS):
            part(call)
        found.append((time.perf_counter() - started) / CALLS)
    return round(1e6 * min(found), 2)


def whole(call: int) -> None:
    judged = decided[call % 32]
    request.scope["state"]["request_id"] = f"{call:032x}"
    count(request, model, model.default, judged.own, judged, [])


def before(_: int) -> None:
    for stage in ("read", "decode"):
        metrics.stage[stage].observe(0.003)
    metrics.request("/predict", "200").inc()


PARTS: dict[str, Callable[[int], object]] = {
    "counters of decision and class, histogram of p-values": lambda call: metrics.count(model, model.default, decided[call % 32].own, []),
    "drift alarm and prevalence": lambda call: model.observe(decided[call % 32]),
    "remembering for feedback": lambda call: recent.remember(f"{call:032x}", Answered(model.watch, [False])),
    "all that is done once the answer is on its way": whole,
    "before that: two stages, and the counter of requests": before,
}
nothing = microseconds(lambda call: decided[call % 32])
found = {name: max(0.0, round(microseconds(part) - nothing, 2)) for name, part in PARTS.items()}
total = round(sum(list(found.values())[-2:]), 2)
for name, cost in found.items():
    print(f"{cost:6.2f}  {name}")
print(f"{total:6.2f}  in all")
if arguments.json:
    arguments.json.write_text(json.dumps({"hardware": hardware(), "microseconds": found, "total": total}, indent=1) + "\n")
