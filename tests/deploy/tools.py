"""Programs that are no Python packages. A test that needs one fails without it: skipped, nobody would miss it."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def run(program: str, *arguments: str | Path) -> str:
    """What a program prints. The test fails, with all it said, when the program fails or is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is not installed; `make tools` installs it on Debian")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_module(module: str, *arguments: str | Path) -> str:
    """The same for a Python package's command."""
    return run(sys.executable, "-m", module, *arguments)


def documents(text: str) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
