"""Does anything break it? Posts mutated pictures, then lets schemathesis try the API, at a server of its own.

    python benchmarks/fuzz.py --pictures 20000 --examples 100

Exits with 1 on an answer of 500, on one slower than the deadline (plus a second for this program itself), on a wrong answer to a good picture
afterwards, or when schemathesis finds something.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.mutations import mutated
from tests.processes import process, wait_until_ready

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", default="models")
parser.add_argument("--pictures", type=int, default=20_000)
parser.add_argument("--examples", type=int, default=100, help="per operation and phase of schemathesis; 0 leaves it out")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
DEADLINE_SECONDS = 10.0
picture = Path("examples/cat.png").read_bytes()
with process("-m", "service", "serve", "--models-dir", arguments.models, "--port", "0", "--admin-keys", "nobody-knows") as (server, address):
    assert server.stderr
    threading.Thread(target=server.stderr.read, daemon=True).start()
    wait_until_ready(address)
    right = httpx.post(f"{address}/predict", content=picture).json()
    statuses: Counter[int] = Counter()
    slowest = 0.0
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(4) as threads:

        def post(data: bytes) -> tuple[int, float]:
            started = time.monotonic()
            response = client.post("/predict", content=data)
            if response.status_code >= 400:
                json.loads(response.text)["type"]
            return response.status_code, time.monotonic() - started

        started = time.monotonic()
        for status, seconds in threads.map(post, mutated(arguments.pictures, arguments.seed)):
            statuses[status] += 1
            slowest = max(slowest, seconds)
        good = not any(status >= 500 for status in statuses) and slowest < DEADLINE_SECONDS + 1
        print(
            f"{arguments.pictures} mutated pictures in {time.monotonic() - started:.0f} s: {dict(sorted(statuses.items()))}, slowest {slowest:.2f} s"
        )
    if arguments.examples:
        # Random bytes are a valid body to the schema and no picture to the server: that data is accepted cannot be checked.
        # A deadline of a microsecond is valid too, and answered 504, which schemathesis takes for a failure: the header is given.
        command = ["schemathesis", "run", f"{address}/openapi.json", "--mode", "all", "--max-examples", str(arguments.examples)]
        command += [
            "--header",
            "X-Request-Timeout-Ms: 10000",
            "--exclude-checks",
            "positive_data_acceptance",
            "--generation-allow-x00",
            "false",
            "--seed",
            str(arguments.seed),
        ]
        ended = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=False)
        good &= ended.returncode == 0
    again = httpx.post(f"{address}/predict", content=picture).json()
    same = again["predictions"][0]["label"] == right["predictions"][0]["label"] and server.poll() is None
    print(f"afterwards the right answer to a good picture: {same}")
sys.exit(0 if good and same else 1)
