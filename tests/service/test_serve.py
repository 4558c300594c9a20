"""What signals do, over real processes."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from tests.bundles import id_png, write_bundle
from tests.processes import process, wait_until_ready

COMMAND = ("-m", "service", "serve", "--port", "0", "--device", "cpu", "--intra-op-threads", "1", "--log-format", "json")


def until(holds: object) -> None:
    patience = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < patience
        time.sleep(0.02)


def not_ready(client: httpx.Client) -> bool:
    response = client.get("/readyz")
    return response.status_code == 503 and response.json()["detail"] == "the server is draining and will stop soon"


def test_a_drain_says_not_ready_serves_on_finishes_what_is_in_flight_and_exits_with_0(slow_models_dir: Path) -> None:
    picture = id_png()
    with (
        process(*COMMAND, "--models-dir", str(slow_models_dir), "--drain-seconds", "2") as (server, address),
        httpx.Client(base_url=address) as client,
    ):
        wait_until_ready(address)
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
            # Half a request now, the rest when nobody is let in any more.
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture[:20])
            assert "connection" not in client.get("/livez").headers
            server.send_signal(signal.SIGTERM)
            until(lambda: not_ready(client))
            assert "Retry-After" in client.get("/readyz").headers
            response = client.post("/predict", content=picture, timeout=30)
            assert (response.status_code, response.headers["connection"]) == (200, "close")
            until(lambda: refused(url))
            connection.sendall(picture[20:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.wait(30) == 0


def refused(url: httpx.URL) -> bool:
    try:
        socket.create_connection((url.host, url.port or 0), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_signal_hurries_and_ctrl_c_does_not_wait(models_dir: Path) -> None:
    def ends(first: signal.Signals, second: signal.Signals | None) -> int:
        with (
            process(*COMMAND, "--models-dir", str(models_dir), "--drain-seconds", "100") as (server, address),
            httpx.Client(base_url=address) as client,
        ):
            wait_until_ready(address)
            server.send_signal(first)
            if second:
                until(lambda: not_ready(client))
                server.send_signal(second)
            return server.wait(60)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ends, (signal.SIGTERM, signal.SIGINT), (signal.SIGTERM, None))) == [0, 130]


def catches(pid: int, sig: signal.Signals) -> bool:
    found = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (sig - 1) & 1)


def test_signals_are_heeded_while_the_service_is_still_being_imported(models_dir: Path) -> None:
    with subprocess.Popen([sys.executable, *COMMAND, "--models-dir", str(models_dir)]) as server:
        try:
            until(lambda: catches(server.pid, signal.SIGTERM))
            assert "onnxruntime" not in Path(f"/proc/{server.pid}/maps").read_text()
            # What is there is read in any case: nothing to do, and no reason to die.
            server.send_signal(signal.SIGHUP)
            time.sleep(0.05)
            assert server.poll() is None
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_sighup_loads_new_versions_and_rotates_keys(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", images=100)
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    options = ("--models-dir", str(tmp_path / "models"), "--api-keys-file", str(keys), "--drain-seconds", "0")
    with process(*COMMAND, *options) as (server, address):
        wait_until_ready(address)

        def version(key: str) -> int:
            return int(httpx.post(f"{address}/predict", content=id_png(), headers={"X-API-Key": key}).json().get("version", 0))

        assert (version("old"), version("new")) == (1, 0)
        keys.write_text("new\n")
        write_bundle(tmp_path / "models", version=2, images=100)
        server.send_signal(signal.SIGHUP)
        until(lambda: version("new") == 2)
        assert version("old") == 0
        keys.unlink()
        write_bundle(tmp_path / "models", version=3, images=100, model=b"no graph")
        server.send_signal(signal.SIGHUP)
        until(lambda: 'result="failed"} 1' in httpx.get(f"{address}/metrics").text)
        assert version("new") == 2
        said = end(server)
    complaints = [line["message"] for line in said if line["level"] == "error"]
    assert len(complaints) == 2
    assert "the keys were not read again, those in force stay: setting api_keys_file" in complaints[0]
    assert "tiny was not reloaded, version 2 serves on" in complaints[1]


def test_each_request_is_one_line_and_probes_are_none(models_dir: Path) -> None:
    with process(*COMMAND, "--models-dir", str(models_dir), "--drain-seconds", "0", OODGATE_ALHPA="0.1") as (server, address):
        wait_until_ready(address)
        response = httpx.post(f"{address}/predict?alpha=0.1", content=id_png(), headers={"X-Request-ID": "order-7", "Authorization": "Bearer secret"})
        httpx.get(f"{address}/nothing%0Ahere")
        said = end(server)
    lines = [line for line in said if line["logger"] == "service.requests"]
    answered, lost = lines
    timings = {name: answered.pop(f"{name}_ms") for name in ("duration", "read", "decode", "queue", "infer", "encode")}
    assert timings["duration"] >= sum(value for name, value in timings.items() if name != "duration") > 0
    assert {name: answered[name] for name in answered if name != "time"} == {
        "level": "info",
        "logger": "service.requests",
        "message": "POST /predict",
        "request_id": "order-7",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "model": "tiny",
        "version": 1,
        "postprocessor": "knn",
        "images": 1,
        "decision": "rejected" if response.headers["X-OOD-Rejected"] == "true" else "accepted",
        "rejected": int(response.headers["X-OOD-Rejected"] == "true"),
    }
    assert (lost["status"], lost["route"], lost["problem"], lost["message"]) == (404, "unmatched", "unknown-route", "GET /nothing\\nhere")
    assert "secret" not in json.dumps(said)
    assert any(line["message"] == "environment variable OODGATE_ALHPA is no setting and changes nothing" for line in said)


def end(server: Popen[bytes]) -> list[dict[str, str]]:
    server.send_signal(signal.SIGTERM)
    assert server.stderr
    said = server.stderr.read().decode()
    assert server.wait(30) == 0
    return [json.loads(line) for line in said.splitlines()]


def test_a_service_link_of_kubernetes_is_explained(models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from service.__main__ import main

    monkeypatch.setenv("OODGATE_PORT", "tcp://10.0.0.1:8000")
    assert main(["serve", "--models-dir", str(models_dir)]) == 1
    assert "enableServiceLinks: false" in capsys.readouterr().err
