"""The whole way of an operator: traffic changes, Prometheus says so, the thresholds are renewed, and no request is lost.

    python -m benchmarks.watch --json benchmarks/results/watch.json --picture examples/ood-dashboard.png

A real server and a real Prometheus with the deployed rules. CIFAR-10 test pictures are sent, then one in five is a character from a street; once the
alert fires, every panel of both dashboards is asked for; then come `oodgate calibrate`, a reload under load, clean traffic again, and
`oodgate replay` of what was captured at a stricter alpha.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.panels import DASHBOARDS, draw
from benchmarks.traffic import Account, Traffic
from tests.processes import process, wait_until_ready
from tests.prometheus import ask, firing, prometheus
from training.sources import open_source

ROOT = Path(__file__).parent.parent
ALERT = "OodgateOodAlarm"
OOD_RATIO = 0.2
STRICTER = 0.01
KEY = "operator"
# What the dashboards show of shadow scores is empty where there are none.
OPTIONS = ("--shadow-postprocessors", "knn", "--prevalence-window", "1000", "--admin-keys", KEY, "--port", "0")


@dataclass(frozen=True)
class Pace:
    """How fast, and for how long at least: before the change, after the alert, and after the reload."""

    per_second: float
    clean_seconds: float
    mixed_seconds: float
    after_seconds: float
    scrape_interval: str


@dataclass(frozen=True)
class Found:
    """What happened. Delays count from the first request after the change."""

    answered: int
    refused_as_broken: int
    lost: dict[str, int]
    clean_images: int
    false_alarm: bool
    alarm_after_images: int
    alert_after_seconds: float
    ood_ratio: float
    prevalence: float
    prevalence_standard_error: float
    panels: int
    queries: int
    empty: list[str]
    captured: int
    captured_but_not_rejected: int
    rejected: dict[str, int]
    replayed: int
    replay_changes: dict[str, int]
    calibration_images: int
    answered_by_version: dict[int, int]
    alert_after_reload: bool


def run(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", "service", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def until(what: str, holds: Callable[[], Any], seconds: float = 120) -> None:
    patience = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < patience, f"{what} took more than {seconds:g} s"
        time.sleep(0.1)


def write(folder: Path, pictures: Sequence[bytes]) -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        # Pictures are known by their content; the suffix says only that it is one.
        (folder / f"{number:05}.png").write_bytes(picture)
    return folder


def scenario(
    folder: Path, models: Path, pictures: Sequence[bytes], strangers: Sequence[bytes], fresh: Sequence[bytes], pace: Pace, picture: Path | None = None
) -> Found:
    """folder: an empty one. pictures, strangers: what is sent; fresh: ID pictures to calibrate on. picture: where to draw the OOD dashboard."""
    served = shutil.copytree(models, folder / "models")
    capture = folder / "captured"
    kept = ("--state-dir", str(folder / "state"), "--capture-dir", str(capture))
    command = ["-m", "service", "serve", "--models-dir", str(served), *kept, *OPTIONS]
    (folder / "prometheus").mkdir()
    with process(*command) as (server, address), httpx.Client(base_url=address, timeout=60) as client:
        assert server.stderr
        threading.Thread(target=server.stderr.read, daemon=True).start()
        wait_until_ready(address)
        name = client.get("/models").json()["models"][0]["name"]

        def monitor() -> dict[str, Any]:
            found: dict[str, Any] = client.get(f"/models/{name}").json()["monitor"]
            return found

        started = time.time()
        with (
            prometheus(folder / "prometheus", client.base_url.port or 0, pace.scrape_interval) as watching,
            Traffic(address, pictures, strangers, pace.per_second) as traffic,
        ):
            time.sleep(pace.clean_seconds)
            false_alarm = monitor()["drift"]["alarm"] or ALERT in firing(watching)
            traffic.ood_ratio = OOD_RATIO
            changed, clean_images = time.monotonic(), monitor()["drift"]["images"]
            before = traffic.account.sent.total(), traffic.account.sent["ood"]
            until("the alert", lambda: ALERT in firing(watching))
            alert_after = time.monotonic() - changed
            time.sleep(pace.mixed_seconds)
            panels = [panel for dashboard in DASHBOARDS.values() for panel in dashboard["panels"]]
            targets = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
            empty = [f"{title}: {expression}" for title, expression in targets if not ask(watching, expression)]
            alarm, share = monitor()["drift"], monitor()["prevalence"]
            sent = traffic.account.sent.total() - before[0], traffic.account.sent["ood"] - before[1]
            traffic.ood_ratio = 0
            run("calibrate", str(write(folder / "fresh", fresh)), "--models-dir", str(served), "--description", "fresh")
            client.post(f"/models/{name}/reload", headers={"X-API-Key": KEY}).raise_for_status()
            calibrated = client.get(f"/models/{name}").json()["manifest"]["calibration"]["n"]
            time.sleep(pace.after_seconds)
            alert_after_reload = ALERT in firing(watching)
            if picture is not None:
                draw(watching, DASHBOARDS["ood"], started, time.time(), picture)
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    account = traffic.account
    captured, strayed = look_into(capture, account)
    changes, replayed = replay(served, capture)
    return Found(
        answered=account.answered,
        refused_as_broken=account.refused,
        lost=dict(account.lost),
        clean_images=clean_images,
        false_alarm=false_alarm,
        alarm_after_images=alarm["alarmed_at"] - clean_images,
        alert_after_seconds=round(alert_after, 1),
        ood_ratio=round(sent[1] / sent[0], 4),
        prevalence=round(share["ratio"], 4),
        prevalence_standard_error=round(share["standard_error"], 4),
        panels=len(panels),
        queries=len(targets),
        empty=empty,
        captured=captured,
        captured_but_not_rejected=strayed,
        rejected={truth: sum(kind == truth for kind, _ in account.rejected.values()) for truth in ("id", "ood")},
        replayed=replayed,
        replay_changes=changes,
        calibration_images=calibrated,
        answered_by_version=dict(sorted(account.by_version.items())),
        alert_after_reload=alert_after_reload,
    )


def look_into(capture: Path, account: Account) -> tuple[int, int]:
    """How many pictures were captured as rejected, and how many of them the clients were not told to be."""
    sidecars = [json.loads(file.read_text()) for file in capture.rglob("*.json")]
    identifiers = [sidecar["request_id"] for sidecar in sidecars if sidecar["why"] == "rejected"]
    return len(identifiers), sum(identifier not in account.rejected for identifier in identifiers)


def replay(models: Path, pictures: Path) -> tuple[dict[str, int], int]:
    """What a stricter alpha changes, and among how many."""
    command = ("replay", str(pictures), "--models-dir", str(models), "--version", "1", "--candidate-alpha", str(STRICTER), "--json")
    changes = [json.loads(line)["change"] for line in run(*command).splitlines()]
    return {change: changes.count(change) for change in sorted({change for change in changes if change})}, len(changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--pictures", default="data/cifar10/test.parquet#openood_cifar10=test", help="the last third is kept for calibrating")
    parser.add_argument("--ood", default="data/chars74k")
    parser.add_argument("--per-second", type=float, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="where to draw the OOD dashboard")
    arguments = parser.parse_args()
    good, strangers = read(arguments.pictures), read(arguments.ood)
    cut = len(good) * 2 // 3
    pace = Pace(arguments.per_second, clean_seconds=90, mixed_seconds=75, after_seconds=60, scrape_interval="1s")
    with tempfile.TemporaryDirectory() as folder:
        found = scenario(Path(folder), arguments.models, good[:cut], strangers, good[cut:], pace, arguments.picture)
    text = json.dumps(asdict(found), indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.exit(1 if found.lost or found.empty or found.false_alarm else 0)


def read(where: str) -> list[bytes]:
    source = open_source(where)
    assert source is not None, f"there are no pictures in {where}"
    pictures = [source.read(row) for row in range(len(source))]
    assert all(isinstance(picture, bytes) for picture in pictures), f"{where} has no encoded pictures"
    return pictures  # type: ignore[return-value]


if __name__ == "__main__":
    main()
