"""A real Prometheus with the deployed rules, which scrapes one server."""

import contextlib
import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.tools import DEPLOY, documents, free_port


def configure(folder: Path, server: int, interval: str) -> Path:
    """The deployed configuration, with another target and less patience."""
    config = next(documents((DEPLOY / "prometheus" / "prometheus.yml").read_text()))
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@contextlib.contextmanager
def prometheus(folder: Path, server: int, interval: str = "500ms") -> Iterator[httpx.Client]:
    """A client of it. server: the port of what it scrapes; folder: its own, empty one."""
    port = free_port()
    config = configure(folder, server, interval)
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client, subprocess.Popen(["prometheus", *options]) as process:
        try:
            wait_until_ready(client, process)
            yield client
        finally:
            process.terminate()


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    patience = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/-/ready").status_code == 200:
                return
        assert process.poll() is None, f"Prometheus ended with {process.returncode}"
        assert time.monotonic() < patience, "Prometheus did not become ready"
        time.sleep(0.1)


def filled_in(expression: str) -> str:
    """A panel's query without Grafana's variables."""
    return expression.replace("$__rate_interval", "20s").replace("$model", ".*")


def ask(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """The series of a panel's query that have a value now. Fails where the query does."""
    answer = client.get("/api/v1/query", params={"query": filled_in(expression)}).json()
    assert answer["status"] == "success", answer
    return [series for series in answer["data"]["result"] if not math.isnan(float(series["value"][1]))]


def firing(client: httpx.Client) -> set[str]:
    """Names of the alerts that fire."""
    alerts = client.get("/api/v1/alerts").json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
