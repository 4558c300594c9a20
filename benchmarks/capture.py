"""What capture costs the event loop for a request of one picture: `python benchmarks/capture.py models/cifar10-airbench/1`.

An accepted picture is mostly looked at and let go. A rejected one enters the minute's choice at first, and once that is full hardly ever.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from service.capture import Capture
from service.decoder import Upload
from service.metrics import Metrics
from service.model import open_model
from service.place import Array
from service.settings import Settings
from service.store import open_store
from service.verdict import Judged, judging

MINUTES, OFFERS = 200, 2000


def microseconds(folder: Path, place: str) -> dict[str, float]:
    settings = Settings(device="cpu", intra_op_threads=1, capture_dir=place)
    model = open_model(folder, settings)
    judged = Judged.of(*judging(model.runtime.run, model.default)(np.zeros((1, model.manifest.input.size, model.manifest.input.size, 3), np.uint8)))
    images = [Upload(bytes(100_000))]

    def offers(capture: Capture, rejected: Array, count: int) -> float:
        verdict = dataclasses.replace(judged.own, rejected=rejected)
        start = time.perf_counter()
        for _ in range(count):
            capture.offer("request", model, model.default, verdict, judged, images)
        return 1e6 * (time.perf_counter() - start) / count

    first, later, accepted = [], [], []
    for _ in range(MINUTES):
        capture = Capture(open_store(place), settings, Metrics())
        first.append(offers(capture, np.array([True]), settings.capture_per_minute))
        later.append(offers(capture, np.array([True]), OFFERS))
        accepted.append(offers(capture, np.array([False]), OFFERS))
    return {"accepted": np.median(accepted), "rejected, a minute's first": np.median(first), "rejected, later": np.median(later)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for what, took in microseconds(Path(sys.argv[1]), folder).items():
            print(f"{what}: {took:.1f} µs")
