"""How fast the service answers, against the bare graph and against other servers, all in one run on one machine.

    python -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers/requirements.txt
    python benchmarks/serving.py --peers .venv-peers/bin/python --json benchmarks/results/serving.json

Single 32x32 PNG pictures over keep-alive connections, the load generator on the same cores. Everything that is compared runs in turns, a few
seconds each or less, and ratios are medians over the turns, so that a busy machine disturbs both sides. Bundles are given, or untrained ones of
width 64 and 16. Open loop: Poisson arrivals at 70 and 90 % of the throughput that was found just before, and at twice that.
"""

import argparse
import dataclasses
import io
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hardware import cpu_name
from peers.processes import PEERS, memory_mb, started
from PIL import Image

from service.bundle.manifest import load_bundle
from service.bundle.preprocess import decode
from service.connection import server as http_target
from service.load import Outcome, Target, closed_loop, open_loop
from service.runtime import Device, Runtime, cpu_quota

CONNECTIONS = (1, 8, 32, 64)
RAW = ("Content-Type: image/png",)
FORM = ("Content-Type: multipart/form-data; boundary=b",)
# Those that take no raw picture, and the field in which they take it.
FORMS = {"LitServe": "file", "BentoML": "picture"}


def pictures(count: int = 64) -> list[bytes]:
    """Smooth noise: as large as photographs of this size are, about 2 KB."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def form(data: bytes, field: str) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' % field.encode()
    return head + data + b"\r\n--b--\r\n"


def bare_throughput(runtime: Runtime, data: Sequence[bytes], seconds: float) -> float:
    """Pictures in a second with nothing but decoding and the graph: batches of 32, the next one decoded while one runs."""
    spec, done, batch = runtime.bundle.manifest.input, 0, list(data)[:32]

    def decoded() -> Any:
        return np.stack([decode(one, spec) for one in batch])

    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(decoded)
        # The first is decoded beside nothing, which is not what is measured.
        coming.result()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            ready, coming = coming.result(), beside.submit(decoded)
            runtime.run(ready)
            done += len(ready)
        return done / (time.perf_counter() - start)


def bare_latency_ms(runtime: Runtime, data: Sequence[bytes], seconds: float) -> float:
    """Median of session.run with one picture."""
    one, took, until = decode(data[0], runtime.bundle.manifest.input)[None], [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        runtime.run(one)
        took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


def in_turns(turns: int, sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def against_the_graph(bundle: Path, device: Device, target: Target, data: Sequence[bytes], turns: int, seconds: float) -> dict[str, Any]:
    runtime = Runtime(load_bundle(bundle), device, cpu_quota())
    runtime.warm()
    # Many and short: the speed of a shared machine wanders by half within seconds.
    turns, seconds = 8 * turns, seconds / 2
    served = partial(closed_loop, target, seconds=seconds, warm_seconds=0.3)
    busy = in_turns(
        turns,
        {
            "bare": partial(bare_throughput, runtime, data, seconds),
            "served": lambda: served(32).answered_per_second,
        },
    )
    alone = in_turns(
        turns,
        {
            "bare": partial(bare_latency_ms, runtime, data, seconds),
            "served": lambda: served(1).answered_ms["p50"],
        },
    )
    return {
        "bare_per_second": statistics.median(busy["bare"]),
        "served_per_second": statistics.median(busy["served"]),
        "throughput_ratio": statistics.median(ours / bare for ours, bare in zip(busy["served"], busy["bare"], strict=True)),
        "bare_ms": statistics.median(alone["bare"]),
        "served_ms": statistics.median(alone["served"]),
        "added_ms": statistics.median(ours - bare for ours, bare in zip(alone["served"], alone["bare"], strict=True)),
    }


def under_load(target: Target, turns: int, seconds: float) -> dict[str, Any]:
    """Poisson arrivals below and beyond the maximum, which is measured before each; the turn in the middle of three times as many.

    Where the machine became faster or slower meanwhile, 70 % was another share than was meant: there only the half of the turns counts in which
    the maximum moved least.
    """
    found: dict[str, list[Outcome]] = {"0.7": [], "0.9": [], "2.0": []}
    moved = []
    for _ in range(3 * turns):
        most = []
        for share, outcomes in found.items():
            most.append(closed_loop(target, 32, seconds).answered_per_second)
            outcomes.append(open_loop(target, float(share) * most[-1], 3 * seconds))
        moved.append(abs(math.log(most[1] / most[0])))
    calm, busy, over = found.values()
    steady = [one for one, by in zip(calm, moved, strict=True) if by <= statistics.median(moved)]
    return {
        "outcomes": {share: [dataclasses.asdict(outcome) for outcome in outcomes] for share, outcomes in found.items()},
        "p99_over_median_at_70": statistics.median(one.answered_ms["p99"] / one.answered_ms["p50"] for one in steady),
        "overload_p99_over_p99_at_90": statistics.median(
            one.answered_ms["p99"] / other.answered_ms["p99"] for one, other in zip(over, busy, strict=True)
        ),
        "overload_refused_p99_ms": statistics.median(one.refused_ms.get("p99", 0.0) for one in over),
    }


def rows(servers: dict[str, tuple[Target, int]], turns: int, seconds: float) -> dict[str, Any]:
    """Every server at every number of connections, in turns: only the one that is asked has anything to do."""
    found: dict[str, Any] = {name: {"memory_mb": 0.0} for name in servers}
    for connections in CONNECTIONS:
        outcomes: dict[str, list[Outcome]] = {name: [] for name in servers}
        for _ in range(turns):
            for name, (target, _) in servers.items():
                outcomes[name].append(closed_loop(target, connections, seconds))
        for name, some in outcomes.items():
            found[name][str(connections)] = {
                "answered_per_second": statistics.median(outcome.answered_per_second for outcome in some),
                "p50_ms": statistics.median(outcome.answered_ms.get("p50", float("inf")) for outcome in some),
                "p99_ms": statistics.median(outcome.answered_ms.get("p99", float("inf")) for outcome in some),
            }
            print(f"{connections:3} connections  {name:22} {found[name][str(connections)]}")
    for name, (_, group) in servers.items():
        found[name]["memory_mb"] = memory_mb(group)
    return found


def measure(bundle: Path, device: Device, peers: Path | None, only: Sequence[str], turns: int, seconds: float) -> dict[str, Any]:
    data = pictures()
    # No more lines of log than the others write.
    ours = [sys.executable, "-m", "service", "serve", "--device", device, "--port", "{port}", "--log-level", "warning"]
    ours += ["--models-dir", str(bundle.parent.parent), "--model", bundle.parent.name]
    with started(ours, bundle, data[0], RAW) as (url, group):
        target = http_target(url, data, RAW)
        result = against_the_graph(bundle, device, target, data, turns, seconds)
        print(json.dumps(result, indent=1))
        result["load"] = under_load(target, turns, seconds)
        print({key: value for key, value in result["load"].items() if key != "outcomes"})
        result["servers"] = rows({"oodgate": (target, group)}, turns, seconds)
        for name in only if peers else ():
            bodies, headers = ([form(one, FORMS[name]) for one in data], FORM) if name in FORMS else (data, RAW)
            try:
                with started([str(peers), *PEERS[name]], bundle, bodies[0], headers) as (address, process):
                    both = {"oodgate": (target, group), name: (http_target(address, bodies, headers), process)}
                    found = rows(both, turns, seconds)
                    result["servers"][name] = found[name] | {"oodgate_beside_it": found["oodgate"]}
            except RuntimeError as exc:
                print(exc)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, help="default: untrained ones of width 64 and 16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of this service; the others use the CPU")
    parser.add_argument("--peers", type=Path, help="python of the environment that has the other servers")
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS), help="these of them")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each turn")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundles = arguments.bundles
        if not bundles:
            # Here, because it brings torch along, which given bundles do not need.
            from untrained import untrained

            bundles = [untrained(width, Path(folder)) for width in (64, 16)]
        # Absolute, but not resolved: the servers run elsewhere, and a virtual environment's python is a link.
        peers = arguments.peers and arguments.peers.absolute()
        how = (arguments.device, peers, arguments.only, arguments.turns, arguments.seconds)
        found = {bundle.parent.name: measure(bundle.absolute(), *how) for bundle in bundles}
    if arguments.json:
        on = {"hardware": cpu_name(), "device": arguments.device, "load_average": os.getloadavg()[0]}
        arguments.json.write_text(json.dumps(on | {"bundles": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
