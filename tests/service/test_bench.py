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
    assert main(["bench", picture, "--url", url, "--header", "Content-Type: text/plain", *QUICK, "--json", str(found)]) == 1
    assert set(json.loads(found.read_text())[0]["statuses"]) == {"415"}


def test_where_no_request_is_answered_nothing_was_measured(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"hello")
    assert main(["bench", str(broken), "--models-dir", str(models_dir), "--device", "cpu", *QUICK]) == 1
    found = capsys.readouterr()
    assert "422" in found.out
    assert found.err == "oodgate: no request was answered with 200\n"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--rate", "-5", "a number above 0"),
        ("--rate", "0", "a number above 0"),
        ("--rate", "nan", "a number above 0"),
        ("--share", "0", "a number above 0"),
        ("--seconds", "0", "a number above 0"),
        ("--seconds", "-1", "a number above 0"),
        ("--seconds", "inf", "a number above 0"),
        ("--seconds", "nan", "a number above 0"),
        ("--seconds", "soon", "a number above 0"),
        ("--warm-seconds", "-1", "a number from 0 on"),
        ("--connections", "0", "a whole number from 1 on"),
        ("--connections", "-1", "a whole number from 1 on"),
        ("--connections", "1.5", "a whole number from 1 on"),
        ("--url", "127.0.0.1:8000/predict", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "ftp://h/", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http://h:99999/", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http://h:0/", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http://[::1/", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http:///predict", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http://a..b/", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--url", "http://h/a b", "http://HOST[:PORT][/PATH] or https://…, PORT from 1 to 65535"),
        ("--header", "nocolon", "NAME: VALUE on one line"),
        ("--header", "two words: x", "NAME: VALUE on one line"),
        ("--header", "X: a\r\nY: b", "NAME: VALUE on one line"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_allowed_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], option: str, value: str, allowed: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", "a.png", option, value])
    assert refused.value.code == 2
    assert f"oodgate bench: error: argument {option}: {value!r} is not {allowed}\n" in capsys.readouterr().err


def test_what_cannot_be_measured_is_one_sentence(picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, sentence in (
        ([picture, "--url", "http://127.0.0.1:9/predict"], "http://127.0.0.1:9/predict: "),
        ([str(empty), "--url", "http://127.0.0.1:9/predict"], "no pictures there"),
        ([str(tmp_path / "none.png")], "none.png: No such file"),
        ([str(tmp_path / "none.png"), "--url", "http://127.0.0.1:9/predict"], "none.png: No such file"),
        ([picture, "--models-dir", str(empty)], "holds no complete bundle"),
        ([picture, "--url", "http://127.0.0.1:9/predict", "--json", str(tmp_path / "none" / "x.json")], "x.json: No such file"),
    ):
        assert main(["bench", *arguments, *QUICK]) == 1
        error = capsys.readouterr().err
        assert error.startswith("oodgate: ")
        assert sentence in error
        assert "Traceback" not in error


def test_without_connections_there_is_an_open_loop_to_measure_or_nothing(
    client: httpx.Client, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(client.base_url.join("/predict"))
    quick = ("--seconds", "0.3", "--warm-seconds", "0", "--connections")
    assert main(["bench", picture, "--url", url, "--rate", "20", *quick]) == 0
    for options in ((), ("--share", "0.5")):
        assert main(["bench", picture, "--url", url, *options, *quick]) == 1
        assert capsys.readouterr().err == "oodgate: without --connections only a --rate can be measured\n"
