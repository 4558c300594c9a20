"""Does a client notice? nginx, as deployed, in front of two replicas under a steady load: reload, rolling restart, SIGKILL.

    python benchmarks/untrained.py 16 /tmp/models
    python benchmarks/rollout.py --models /tmp/models --json benchmarks/results/rollout.json

Needs nginx (a Debian package). Requests leave at a fixed rate whatever has come back (an open loop), and latency counts from when
one was due. Everything listens on 127.0.0.1 alone.
"""

import argparse
import asyncio
import contextlib
import getpass
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
from peers.processes import free_port

from service.bundle.manifest import find_versions

ROOT = Path(__file__).parent.parent
NGINX = ROOT / "deploy" / "nginx"
PICTURE = (ROOT / "examples" / "cat.png").read_bytes()
KEY = secrets.token_hex()


@dataclass
class Replica:
    models_dir: Path
    keys_file: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port), "--models-dir", str(self.models_dir)]
        command += ["--device", "cpu", "--intra-op-threads", "1", "--admin-keys-file", str(self.keys_file), "--log-level", "error"]
        self.process = subprocess.Popen(command, cwd=ROOT)
        async with httpx.AsyncClient(base_url=self.url) as client:
            patience = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                assert self.process.poll() is None, f"the replica ended with {self.process.returncode}"
                assert time.monotonic() < patience, "the replica did not become ready"
                await asyncio.sleep(0.1)

    async def stop(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait)

    async def reload(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            name = (await client.get("/models")).json()["models"][0]["name"]
            (await client.post(f"/models/{name}/reload", headers={"X-API-Key": KEY})).raise_for_status()


def start_nginx(folder: Path, replicas: list[Replica]) -> tuple[subprocess.Popen[bytes], str]:
    """The deployed configuration, with other addresses and paths."""
    port = free_port()
    text = (NGINX / "nginx.conf").read_text()
    for old, new in (
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        (" /tmp/", f" {folder}/"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("/dev/stderr", f"{folder}/error.log"),
    ):
        assert old in text, f"nginx.conf has no {old}"
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    upstream = (NGINX / "upstream.conf").read_text()
    for host, replica in zip(("172.30.0.11:8000", "172.30.0.12:8000"), replicas, strict=True):
        assert upstream.count(host) == 2, f"upstream.conf does not have {host} twice"
        upstream = upstream.replace(host, f"127.0.0.1:{replica.port}")
    (folder / "upstream.conf").write_text(upstream)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", f"daemon off; user {getpass.getuser()};"])
    return process, f"http://127.0.0.1:{port}"


@dataclass
class Load:
    """Requests at a fixed rate; `outcomes` holds (when it left, seconds, what came)."""

    session: aiohttp.ClientSession
    url: str
    rate: float
    outcomes: list[tuple[float, float, str]] = field(default_factory=list)

    async def one(self, due: float) -> None:
        left = time.monotonic()
        try:
            async with self.session.post(self.url, data=PICTURE, headers={"Content-Type": "image/png"}) as answer:
                await answer.read()
                what = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as exc:
            what = type(exc).__name__
        self.outcomes.append((left, time.monotonic() - due, what))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            start = time.monotonic()
            with contextlib.suppress(asyncio.CancelledError):
                for number in range(10**9):
                    due = start + number / self.rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    group.create_task(self.one(due))


async def measured(load: Load, happens: Awaitable[Any]) -> tuple[dict[str, Any], Any]:
    """What clients see from a little before `happens` to a little after."""
    load.outcomes.clear()
    running = asyncio.create_task(load.run())
    await asyncio.sleep(arguments.calm_seconds)
    said = await happens
    await asyncio.sleep(arguments.calm_seconds)
    running.cancel()
    await running
    took = np.array([seconds for _, seconds, _ in load.outcomes])
    answers = Counter(what for *_, what in load.outcomes)
    return {
        "requests": len(load.outcomes),
        "failed": len(load.outcomes) - answers["200"],
        "answers": dict(answers),
        "p50_ms": round(1000 * float(np.quantile(took, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(took, 0.99)), 1),
    }, said


async def reloads(replicas: list[Replica]) -> None:
    for replica in replicas * 3:
        await replica.reload()


async def rolling_restart(replicas: list[Replica]) -> list[int]:
    """One after the other: SIGTERM, its end, a new process, ready. Gives the exit codes."""
    codes = []
    for replica in replicas:
        codes.append(await replica.stop(signal.SIGTERM))
        await replica.start()
    return codes


async def kill(replica: Replica) -> tuple[float, float]:
    """Gives when, as time.monotonic and time.time tell it: nothing sent from then on may fail, and little be sent again."""
    assert replica.process
    replica.process.send_signal(signal.SIGKILL)
    killed = time.monotonic(), time.time()
    await asyncio.to_thread(replica.process.wait)
    # Long enough for nginx to find out twice whether it is back.
    await asyncio.sleep(10)
    return killed


def sent_again(lines: list[dict[str, Any]]) -> list[float]:
    """When those arrived that nginx sent to more than one replica, as time.time tells it."""
    return [line["unix"] - line["seconds"] for line in lines if "," in line["upstream"]]


async def rollout(folder: Path) -> dict[str, Any]:
    shutil.copytree(arguments.models, folder / "models")
    (folder / "keys").write_text(KEY)
    replicas = [Replica(folder / "models", folder / "keys") for _ in range(2)]
    nginx, url = start_nginx(folder / "nginx", replicas)
    log = folder / "nginx" / "access.log"
    result: dict[str, Any] = {"model": next(iter(find_versions(arguments.models))), "rate": arguments.rate}
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        # Connections that stay, as those of a load balancer in front would.
        connector = aiohttp.TCPConnector(limit=512, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:
            load = Load(session, f"{url}/predict", arguments.rate)
            for name, happens in (
                ("reload", lambda: reloads(replicas)),
                ("rolling restart", lambda: rolling_restart(replicas)),
                ("SIGKILL", lambda: kill(replicas[0])),
            ):
                before = len(log.read_text().splitlines())
                result[name], said = await measured(load, happens())
                lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
                result[name]["retried"] = len(sent_again(lines))
                if name == "rolling restart":
                    result[name]["exit_codes"] = said
                if name == "SIGKILL":
                    monotonic, unix = said
                    result[name]["failed_later"] = sum(left > monotonic and what != "200" for left, _, what in load.outcomes)
                    result[name]["retried_seconds_after"] = sorted(round(arrived - unix, 3) for arrived in sent_again(lines))
                print(name, json.dumps(result[name]))
    finally:
        for process in (nginx, *(replica.process for replica in replicas)):
            if process and process.poll() is None:
                process.terminate()
                process.wait(60)
    return result


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", type=Path, default=ROOT / "models", help="one model: of a size that the machine can serve at the rate")
parser.add_argument("--rate", type=float, default=200, help="requests a second")
parser.add_argument("--calm-seconds", type=float, default=5, help="load before and after each event")
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as name:
    Path(name, "nginx").mkdir()
    measurements = asyncio.run(rollout(Path(name)))
if arguments.json:
    arguments.json.write_text(json.dumps(measurements, indent=1) + "\n")
unnoticed = measurements["reload"]["failed"] == measurements["rolling restart"]["failed"] == measurements["SIGKILL"]["failed_later"] == 0
sys.exit(0 if unnoticed else "clients noticed")
