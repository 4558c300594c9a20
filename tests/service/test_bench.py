import json
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from tests.bundles import id_png

QUICK = ("--connections", "2", "--seconds", "0.3", "--warm-seconds", "0")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(id_png())
    return str(path)


def test_a_running_server_is_measured_in_both_loops(client: httpx.Client, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    url = str(client.base_url.join("/predict"))
    assert main(["bench", picture, "--url", url, "--share", "0.5", "--rate", "20", *QUICK, "--json", str(found)]) == 0
    closed, fixed, shared = json.loads(found.read_text())
    assert closed["asked"] == {"loop": "closed", "connections": 2}
    assert fixed["asked"] == {"loop": "open", "rate": 20}
    assert shared["asked"]["rate"] == pytest.approx(closed["answered_per_second"] / 2, abs=0.01)
    assert {tuple(outcome["statuses"]) for outcome in (closed, fixed, shared)} == {("200",)}
    assert {"p50", "p99", "max"} < set(closed["answered_ms"])
    assert "2 connections" in capsys.readouterr().out


def test_without_a_server_this_process_is_measured(models_dir: Path, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", picture, "--models-dir", str(models_dir), "--device", "cpu", *QUICK]) == 0
    assert "2 connections" in capsys.readouterr().out


def test_requests_that_a_header_should_let_in_carry_it(client: httpx.Client, picture: str, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    url = str(client.base_url.join("/predict"))
    assert main(["bench", picture, "--url", url, "--header", "Content-Type: text/plain", *QUICK, "--json", str(found)]) == 0
    assert set(json.loads(found.read_text())[0]["statuses"]) == {"415"}


def test_what_cannot_be_measured_is_one_sentence(picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, sentence in (
        ([picture, "--url", "http://127.0.0.1:9/predict"], "http://127.0.0.1:9/predict: "),
        ([str(empty), "--url", "http://127.0.0.1:9/predict"], "no pictures there"),
        ([str(tmp_path / "none.png")], "none.png: No such file"),
        ([picture, "--models-dir", str(empty)], "holds no complete bundle"),
    ):
        assert main(["bench", *arguments, *QUICK]) == 1
        error = capsys.readouterr().err
        assert error.startswith("oodgate: ")
        assert sentence in error
        assert "Traceback" not in error
