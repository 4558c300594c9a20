"""Is the image what it should be? Builds it without a Docker engine, starts it as an engine would, and asks it.

    sudo python benchmarks/image.py --json benchmarks/results/image.json

Needs buildah and, to make a base, debootstrap (Debian packages), and root. The container runs under the image's own user and
environment, with a read-only root and a tmpfs on /tmp. Prints what the image adds to its base.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
PORT = 18080
BUILDAH = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
# What a container engine gives a container with --read-only --tmpfs /tmp, before it becomes the image's user.
START = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind /proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --bind -o ro /sys "$1/sys"
mount -t tmpfs tmpfs "$1/tmp"
mount -o remount,ro,bind "$1"
exec unshare --root="$1" --wd="$2" --setgid "$4" --setuid "$3" -- "${@:5}"
"""

# What is tried inside, with the container's own Python.
PROBE = """
try: open("/app/x", "w")
except OSError as exc: print(exc.strerror)
import importlib.util; print(importlib.util.find_spec("torch"))
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="the gpu image is built and inspected, but not started")
parser.add_argument("--base", help="image to build upon; default: one made with debootstrap")
parser.add_argument("--suite", default="bookworm", help="Debian release of that base")
parser.add_argument("--build-argument", action="append", default=[], help="more arguments for `buildah build`, such as --secret=id=pip.conf,src=…")
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()


def buildah(*command: str) -> str:
    return subprocess.run(["buildah", *command], cwd=ROOT, env=BUILDAH, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def make_base(name: str) -> None:
    """A small Debian with Python, as a local image: what a slim Python image is, from packages alone."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["debootstrap", "--variant=minbase", "--include=python3,python3-venv", arguments.suite, folder], check=True)
        shutil.rmtree(Path(folder, "var/cache/apt"))
        shutil.rmtree(Path(folder, "var/lib/apt/lists"))
        container = buildah("from", "scratch")
        buildah("copy", "--quiet", container, folder, "/")
        buildah("commit", "--quiet", container, name)
        buildah("rm", container)


def megabytes(image: str) -> float:
    number, unit = next(entry["size"] for entry in json.loads(buildah("images", "--json", image))).split()
    return float(number) * {"KB": 0.001, "MB": 1, "GB": 1000}[unit]


def command_in(root: str, config: dict[str, Any], command: list[str], extra: dict[str, str]) -> list[str]:
    user, group = config["User"].split(":")
    environment = [*config["Env"], *(f"{name}={value}" for name, value in extra.items())]
    inside = ["/usr/bin/env", "-i", *environment, *command]
    return ["unshare", "--mount", "--", "bash", "-c", START, "bash", root, config["WorkingDir"], user, group, *inside]


def ask(root: str, config: dict[str, Any]) -> dict[str, Any]:
    """Starts the container, asks it everything, ends it with SIGTERM."""
    extra = {"OODGATE_PORT": str(PORT), "OODGATE_HOST": "127.0.0.1"}
    started = time.monotonic()
    server = subprocess.Popen(command_in(root, config, [*config["Entrypoint"], *config["Cmd"]], extra))
    try:
        while subprocess.run(command_in(root, config, config["Healthcheck"]["Test"][1:], extra), check=False, capture_output=True).returncode:
            assert server.poll() is None, f"the container ended with {server.returncode}"
            assert time.monotonic() < started + 120, "the container did not become healthy"
        healthy = time.monotonic() - started
        picture = (ROOT / "examples/cat.png").read_bytes()
        reply = httpx.post(f"http://127.0.0.1:{PORT}/predict", content=picture, headers={"Content-Type": "image/png"}).raise_for_status().json()
        status = Path(f"/proc/{server.pid}/status").read_text()
        seen = subprocess.run(command_in(root, config, ["python", "-c", PROBE], {}), capture_output=True, text=True, check=True).stdout.split("\n")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return {
        "healthy_after_seconds": round(healthy, 1),
        "label": reply["predictions"][0]["label"],
        "uid": int(status.split("Uid:")[1].split()[0]),
        "writing_to_the_root": seen[0],
        "torch": seen[1],
        "exit_code_on_sigterm": code,
    }


base = arguments.base or f"localhost/python-{arguments.suite}"
if not arguments.base and not buildah("images", "--json", "--filter", f"reference={base}").strip("[]\n "):
    make_base(base)
image = f"localhost/oodgate:{arguments.target}"
build = ["build", "--format", "docker", "--network", "host", "--build-arg", f"BASE={base}", "--target", arguments.target, "--tag", image]
buildah(*build, *arguments.build_argument, ".")
config = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
result: dict[str, Any] = {"target": arguments.target, "over_its_base_mb": round(megabytes(image) - megabytes(base))}
if arguments.target == "cpu":
    container = buildah("from", "--pull-never", image)
    result |= ask(buildah("mount", container), config)
    buildah("rm", container)
print(json.dumps(result, indent=1))
if arguments.json:
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
