"""What do reloads cost? Reloads a model again and again while requests go on.

    python benchmarks/reload.py --json benchmarks/results/reload.json

Tells resident memory after the fifth and the last reload, the longest answer to a probe meanwhile (which is how long the event loop stood
still at most), and how many requests failed. Exits with 1 when memory grew by more than a tenth, a probe took longer than 100 ms, or a
request failed.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import httpx

from tests.processes import process, resident_kb, wait_until_ready

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", default="models")
parser.add_argument("--reloads", type=int, default=50)
parser.add_argument("--picture", type=Path, default=Path("examples/cat.png"))
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()
picture, key = arguments.picture.read_bytes(), {"Authorization": "Bearer benchmark"}
command = ("-m", "service", "serve", "--models-dir", arguments.models, "--port", "0", "--admin-keys", "benchmark")


with process(*command) as (server, address):
    assert server.stderr
    threading.Thread(target=server.stderr.read, daemon=True).start()
    wait_until_ready(address)
    statuses: dict[int, int] = {}
    slowest = 0.0
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not stop.is_set():
                status = client.post("/predict", content=picture).status_code
                statuses[status] = statuses.get(status, 0) + 1
                time.sleep(0.02)

    def probe() -> None:
        global slowest
        with httpx.Client(base_url=address, timeout=60) as client:
            while not stop.is_set():
                started = time.monotonic()
                client.get("/livez")
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.005)

    threads = [threading.Thread(target=ask), threading.Thread(target=probe)]
    for thread in threads:
        thread.start()
    name = httpx.get(f"{address}/models").json()["models"][0]["name"]

    def reload(times: int) -> int:
        """Resident memory in kB afterwards, once the version before is gone."""
        for _ in range(times):
            httpx.post(f"{address}/models/{name}/reload", headers=key, timeout=120).raise_for_status()
        time.sleep(1)
        return resident_kb(server.pid)

    fifth, last = reload(5), reload(arguments.reloads - 5)
    stop.set()
    for thread in threads:
        thread.join()
growth = last / fifth - 1
result = {
    "reloads": arguments.reloads,
    "memory_mb": {"after_5": round(fifth / 1024, 1), "end": round(last / 1024, 1)},
    "slowest_probe_ms": round(slowest * 1000, 1),
    "answers": {str(status): count for status, count in sorted(statuses.items())},
}
print(json.dumps(result, indent=1))
if arguments.json:
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
sys.exit(0 if growth <= 0.1 and slowest <= 0.1 and set(statuses) == {200} else "reloads cost too much")
