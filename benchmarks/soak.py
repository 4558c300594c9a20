"""Does it leak? Many requests, good, broken and abandoned ones, at a server of its own, whose memory and open files are watched.

    python benchmarks/soak.py --requests 200000 --json benchmarks/results/soak.json

The first tenth is warm-up. Exits with 1 when afterwards resident memory was ever more than 5 % above what it was then, open files grew by more
than the connections in use, or something was answered 500.
"""

import argparse
import asyncio
import json
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.processes import process, resident_kb, wait_until_ready

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", default="models")
parser.add_argument("--requests", type=int, default=200_000)
parser.add_argument("--connections", type=int, default=16)
parser.add_argument("--json", type=Path)
parser.add_argument("serve", nargs="*", help="after --: more arguments for `oodgate serve`")
arguments = parser.parse_args()
pictures = [Path("examples", name).read_bytes() for name in ("cat.png", "street-view-character.png")]
BODIES = (*pictures * 20, pictures[0][:200], b"hello")
ABANDON_EVERY = 100


def head(body: bytes) -> bytes:
    return b"POST /predict HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n" % len(body)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
    writer.write(head(body) + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", answer)
    assert length
    await reader.readexactly(int(length[1]))
    return int(answer[9:12])


def usage(pid: int) -> tuple[float, int]:
    """Resident memory in MB, open file descriptors."""
    return resident_kb(pid) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(url: httpx.URL, pid: int) -> tuple[Counter[int], list[tuple[float, int]]]:
    statuses: Counter[int] = Counter()
    samples: list[tuple[float, int]] = []
    numbers = iter(range(arguments.requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        for number in numbers:
            body = BODIES[number % len(BODIES)]
            if number % ABANDON_EVERY == 0:
                writer.write(head(body) + body[:100])
                writer.close()
                reader, writer = await asyncio.open_connection(url.host, url.port)
            else:
                statuses[await ask(reader, writer, body)] += 1
            if number % max(1, arguments.requests // 20) == 0:
                samples.append(usage(pid))
        writer.close()

    await asyncio.gather(*(client() for _ in range(arguments.connections)))
    samples.append(usage(pid))
    return statuses, samples


command = ("-m", "service", "serve", "--models-dir", arguments.models, "--port", "0", "--log-format", "json", *arguments.serve)
with process(*command) as (server, address):
    assert server.stderr
    threading.Thread(target=lambda: [None for _ in server.stderr or ()], daemon=True).start()
    wait_until_ready(address)
    started = time.monotonic()
    statuses, samples = asyncio.run(soak(httpx.URL(address), server.pid))
    seconds = time.monotonic() - started
memory, files = zip(*samples[len(samples) // 10 :], strict=True)
result = {
    "requests": arguments.requests,
    "abandoned": arguments.requests - sum(statuses.values()),
    "answers": {str(status): count for status, count in sorted(statuses.items())},
    "memory_mb": {"warm": round(memory[0], 1), "end": round(memory[-1], 1), "most": round(max(memory), 1)},
    "open_files": {"warm": files[0], "end": files[-1]},
}
print(json.dumps(result, indent=1))
if arguments.json:
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
leaks = max(memory) > 1.05 * memory[0] or files[-1] > files[0] + arguments.connections
sys.exit("it leaks, or fails" if leaks or any(status >= 500 for status in statuses) else 0)
