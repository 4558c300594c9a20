"""How seldom the drift alarm is false, and how soon it is raised: simulated streams in process, real pictures over HTTP.

    python -m benchmarks.drift --json benchmarks/results/drift.json

Simulated: every run has a calibration set of its own; OOD images are rejected in a share of CAUGHT. Beside the alarm stands the martingale that bets
on the p-values themselves. Over HTTP: CIFAR-10 test pictures and characters from streets, one in a request, to the committed bundle, until the alarm.
"""

import argparse
import json
import math
import random
import statistics
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks.watch import KEY, read
from service.bundle.decision import p_values
from service.monitor import LOG_ALARM, Drift
from tests.processes import process, wait_until_ready
from tests.streams import ALPHA, CAUGHT, calibrated, naive_evidence, stream

RATIOS = (0.05, 0.1, 0.3)
CHECKPOINTS = (1000, 5000, 10_000, 20_000, 50_000, 100_000)


def false_alarms(n: int, runs: int) -> dict[str, Any]:
    """Share of clean runs that have raised the alarm by each checkpoint: ours, and the naive one's on the same images."""
    ours, naive = [], []
    for seed in tqdm(range(runs), f"clean, n = {n}", leave=False, disable=None):
        source = np.random.default_rng(seed)
        calibration, threshold = calibrated(source, n)
        scores = source.random(CHECKPOINTS[-1], np.float32)
        drift = Drift(ALPHA)
        drift.observe((scores > threshold).tolist())
        ours.append(drift.alarmed_at or math.inf)
        crossed = np.flatnonzero(naive_evidence(p_values(calibration, scores)) >= LOG_ALARM)
        naive.append((crossed[0] + 1) * 50 if len(crossed) else math.inf)
    return {
        "runs": runs,
        "ours": {images: sum(at <= images for at in ours) / runs for images in CHECKPOINTS},
        "naive": {images: sum(at <= images for at in naive) / runs for images in CHECKPOINTS},
    }


def simulated_delay(ood_ratio: float, runs: int, clean_before: int, n: int = 5000, patience: int = 50_000) -> dict[str, float]:
    """Images from when OOD begins to the alarm. A run that had raised it before is left out, and counted."""
    found, early = [], 0
    for seed in range(runs):
        source = np.random.default_rng(seed)
        _, threshold = calibrated(source, n)
        drift = Drift(ALPHA)
        drift.observe(stream(source, threshold, clean_before, 0).tolist())
        if drift.alarmed_at is not None:
            early += 1
            continue
        for part in np.array_split(stream(source, threshold, patience, ood_ratio), 100):
            drift.observe(part.tolist())
            if drift.alarmed_at is not None:
                break
        found.append(math.inf if drift.alarmed_at is None else drift.alarmed_at - clean_before)
    return {"runs": runs, "median": statistics.median(found), "ninth_tenth": float(np.quantile(found, 0.9)), "alarmed_before": early}


def served_delay(client: httpx.Client, good: list[bytes], strangers: list[bytes], ood_ratio: float, runs: int) -> dict[str, float]:
    """The same over HTTP, with real pictures."""
    name = client.get("/models").json()["models"][0]["name"]
    found = []
    for seed in tqdm(range(runs), f"{ood_ratio:.0%} over HTTP", leave=False, disable=None):
        client.post(f"/models/{name}/acknowledge", headers={"X-API-Key": KEY}).raise_for_status()
        chance = random.Random(seed)
        alarm = None
        while alarm is None:
            for _ in range(10):
                client.post("/predict", content=chance.choice(strangers if chance.random() < ood_ratio else good)).raise_for_status()
            alarm = client.get(f"/models/{name}").json()["monitor"]["drift"]["alarmed_at"]
        found.append(alarm)
    return {"runs": runs, "median": statistics.median(found), "longest": max(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--served-runs", type=int, default=11)
    parser.add_argument("--models", default="models")
    parser.add_argument("--pictures", default="data/cifar10/test.parquet#openood_cifar10=test")
    parser.add_argument("--ood", default="data/chars74k")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"caught_ratio": CAUGHT, "false_alarms": {n: false_alarms(n, arguments.runs) for n in (1000, 5000)}}
    for name, before in (("delay", 0), ("delay_after_50000_clean", 50_000)):
        result[name] = {ratio: simulated_delay(ratio, arguments.runs, before) for ratio in RATIOS}
    good, strangers = read(arguments.pictures), read(arguments.ood)
    command = ("-m", "service", "serve", "--models-dir", arguments.models, "--port", "0", "--admin-keys", KEY, "--request-deadline-ms", "600000")
    # Patient, as nothing here depends on time.
    with process(*command) as (server, address), httpx.Client(base_url=address, timeout=600) as client:
        assert server.stderr
        threading.Thread(target=server.stderr.read, daemon=True).start()
        wait_until_ready(address)
        result["served_delay"] = {ratio: served_delay(client, good, strangers, ratio, arguments.served_runs) for ratio in RATIOS}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
