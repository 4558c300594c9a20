"""Other servers as processes: started until they answer, ended with all that they started, and how much memory they take."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = {
    "FastAPI, two workers": ("-m", "uvicorn", "peers.plain:app", "--workers", "2", "--no-access-log", "--port", "{port}"),
    "LitServe": ("-m", "peers.lit"),
    "BentoML": ("-m", "bentoml", "serve", "peers.bento:Peer", "--host", "127.0.0.1", "--port", "{port}"),
    "Ray Serve": ("-m", "peers.ray_serve"),
}


def free_port() -> int:
    """Below those that Linux gives away by itself: of these Ray takes many, and with one of them the port that was just found."""
    while True:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def started(command: Sequence[str], bundle: Path, body: bytes, headers: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The address of a server that answers, and its port, by which all that it starts is known; ended with all of it."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "BUNDLE": str(bundle), "PORT": str(port)}
    with tempfile.TemporaryFile() as log:
        line = [part.format(port=port) for part in command]
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/predict"
            patience = time.monotonic() + 180
            while not answers(url, body, headers):
                if process.poll() is not None or time.monotonic() > patience:
                    log.seek(0)
                    raise RuntimeError(f"{line} did not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.3)
            yield url, port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for folder in belonging(port):
                with suppress(ProcessLookupError):
                    os.kill(int(folder.name), signal.SIGKILL)


def answers(url: str, body: bytes, headers: Sequence[str]) -> bool:
    request = urllib.request.Request(url, body, dict(header.split(": ", 1) for header in headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):
        return False


def belonging(port: int) -> list[Path]:
    """In /proc, a server's processes: whichever inherited its environment, for some leave its group and session."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"PORT={port}".encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent)
    return found


def memory_mb(port: int) -> float:
    """Resident memory of a server and all its processes, shared pages counted once."""
    total = 0
    for folder in belonging(port):
        with suppress(OSError, StopIteration):
            total += int(next(line.split()[1] for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")))
    return total / 1024
