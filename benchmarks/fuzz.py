"""Does anything break it? Posts mutated pictures, then lets schemathesis try the API, at a server of its own.

    python benchmarks/fuzz.py --pictures 20000 --examples 100 --json benchmarks/results/fuzz.json

schemathesis tries valid and invalid requests twice: with names of its own invention and no key, and with the name of the model and the admin key.
Exits with 1 on an answer of 500, on one slower than the deadline (plus a second for this program itself), on a wrong answer to a good picture
afterwards, or when schemathesis finds something.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.mutations import mutated
from tests.processes import process, wait_until_ready

DEADLINE_SECONDS = 10.0
KEY = "only-fuzz-knows"
# Random bytes are a valid body to the schema and no picture to the server: that data is accepted cannot be checked.
# A deadline of a microsecond is valid too, and answered 504, which schemathesis takes for a failure: the header is given.
OPTIONS = "--mode all --exclude-checks positive_data_acceptance --generation-allow-x00 false"
HEADER = ("--header", "X-Request-Timeout-Ms: 10000")


def post_mutated(address: str, count: int, seed: int) -> dict[str, Any]:
    """The statuses of so many mutated pictures, and the slowest answer."""
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(4) as threads:

        def post(data: bytes) -> tuple[int, float]:
            started = time.monotonic()
            response = client.post("/predict", content=data)
            if response.status_code >= 400:
                json.loads(response.text)["type"]
            return response.status_code, time.monotonic() - started

        statuses, seconds = zip(*threads.map(post, mutated(count, seed)), strict=True)
    counted = sorted(Counter(statuses).items())
    return {"sent": count, "answers": {str(status): times for status, times in counted}, "slowest_seconds": round(max(seconds), 2)}


def let_schemathesis_try(address: str, examples: int, seed: int, known: dict[str, str | int], *more: str) -> dict[str, Any]:
    """How many requests it made up and how many were answered as the schema says. known: parameters by place and name, not made up."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("[parameters]\n" + "".join(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in known.items()))
        file.flush()
        command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", file.name, "run", f"{address}/openapi.json"]
        command += [*OPTIONS.split(), *HEADER, "--max-examples", str(examples), "--seed", str(seed), *more]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
    print(ended.stdout + ended.stderr)
    found = re.search(r"(\d+) generated(?:, (\d+) passed)?", ended.stdout)
    assert found
    return {"generated": int(found[1]), "passed": int(found[2] or 0), "exit_code": ended.returncode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="models")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=100, help="per operation and phase of schemathesis; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    picture = Path("examples/cat.png").read_bytes()
    with process("-m", "service", "serve", "--models-dir", arguments.models, "--port", "0", "--admin-keys", KEY) as (server, address):
        assert server.stderr
        threading.Thread(target=server.stderr.read, daemon=True).start()
        wait_until_ready(address)
        right = httpx.post(f"{address}/predict", content=picture).json()
        mutations = post_mutated(address, arguments.pictures, arguments.seed)
        print(json.dumps(mutations))
        tries = []
        if arguments.examples:
            tries.append(let_schemathesis_try(address, arguments.examples, arguments.seed, {}))
            model, version = right["model"], right["version"]
            inside = {"path.model": model, "path.name": model, "query.model": model, "path.version": version, "query.version": version}
            tries.append(let_schemathesis_try(address, arguments.examples, arguments.seed, inside, "--header", f"X-API-Key: {KEY}"))
        again = httpx.post(f"{address}/predict", content=picture, timeout=60).json()
        same = again["predictions"] == right["predictions"] and server.poll() is None
    result = {"mutated_pictures": mutations, "schemathesis": tries, "right_answer_afterwards": same}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    good = not any(status >= "500" for status in mutations["answers"]) and mutations["slowest_seconds"] < DEADLINE_SECONDS + 1
    sys.exit(0 if good and same and not any(run["exit_code"] for run in tries) else "something broke")


if __name__ == "__main__":
    main()
