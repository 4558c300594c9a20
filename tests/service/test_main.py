"""The command line, as the processes that users start."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service import __version__
from service.__main__ import main
from service.settings import Settings
from tests.bundles import id_png, ood_png, pixels, png, write_bundle
from tests.processes import ENVIRONMENT, process, resident_kb, wait_until_ready
from tests.servers import serving


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "service", *arguments], input=stdin, capture_output=True, check=False, env=ENVIRONMENT, timeout=60)


def predict(*arguments: str) -> int:
    return main(["predict", "--device", "cpu", "--intra-op-threads", "1", *arguments])


def test_without_torch_the_server_starts_answers_and_stops_on_a_signal(models_dir: Path) -> None:
    start = "import sys; sys.modules['torch'] = None; from service.__main__ import main; sys.exit(main())"
    with process("-c", start, "serve", "--models-dir", str(models_dir), "--port", "0", "--device", "cpu", "--drain-seconds", "0") as (
        server,
        address,
    ):
        wait_until_ready(address)
        assert httpx.post(f"{address}/predict", content=id_png()).status_code == 200
        assert resident_kb(server.pid) < 300_000
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_what_cannot_be_served_ends_the_process_with_one_sentence(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, images=100)
    (folder / "golden.npz").unlink()
    refused = run("serve", "--models-dir", str(tmp_path), "--port", "0", "--log-format", "json")
    assert refused.returncode == 1
    lines = refused.stderr.decode().splitlines()
    assert json.loads(lines[0])["message"].startswith("listening on http://127.0.0.1:")
    assert lines[1:] == [f"oodgate: {folder}: golden.npz cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "other"), "setting model is 'other', models_dir .* holds one, two"),
        ((), "holds one, two: setting model must name the default one; give --model NAME or set OODGATE_MODEL"),
        (("--model", "one", "--alpha", "0.01"), "alpha 0.01 with guarantee pac needs at least 299 calibration images, the bundle has 100"),
        (("--model", "one", "--postprocessor", "vim"), "one has no post-processor 'vim', it has msp, ebo, knn"),
        (("--models-dir", "/nowhere"), "models_dir /nowhere holds no complete bundle"),
        (("--alpha", "2"), r"setting alpha \(OODGATE_ALPHA, --alpha\) is '2'"),
    ],
)
def test_predict_refuses_what_serve_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str) -> None:
    for name in ("one", "two"):
        write_bundle(tmp_path, name, images=100)
    (tmp_path / "a.png").write_bytes(id_png())
    assert predict("--models-dir", str(tmp_path), *options, str(tmp_path / "a.png")) == 1
    assert re.fullmatch(f"oodgate: .*{sentence}.*\n", capsys.readouterr().err)


def test_a_taken_port_is_one_sentence(models_dir: Path, client: httpx.Client) -> None:
    refused = run("serve", "--models-dir", str(models_dir), "--port", str(client.base_url.port))
    assert refused.returncode == 1
    assert refused.stderr.decode() == f"oodgate: cannot listen on 127.0.0.1 port {client.base_url.port}: Address already in use\n"


def test_predict_gives_the_server_s_answers(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, image in enumerate(pixels(20, 77)):
        (tmp_path / f"{place:02}.png").write_bytes(png(image))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "black.PNG").write_bytes(ood_png())
    (tmp_path / "notes.txt").write_text("no picture")
    options = ("--models-dir", str(models_dir), "--postprocessor", "ebo", "--alpha", "0.1", "--guarantee", "marginal")
    assert predict(*options, "--json", "--top-k", "2", str(tmp_path)) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 21
    with serving(models_dir, postprocessor="ebo", alpha=0.1, guarantee="marginal") as client:
        for found in answers:
            path = Path(found["predictions"][0]["filename"])
            expected = client.post("/predict", params={"top_k": 2}, content=path.read_bytes()).json()
            expected["predictions"][0]["filename"] = str(path)
            assert found == approximately(expected)


def approximately(answer: object) -> object:
    """A float's last digits depend on the batch it was computed in."""
    if isinstance(answer, dict):
        return {key: approximately(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [approximately(value) for value in answer]
    return pytest.approx(answer, abs=1e-5) if isinstance(answer, float) else answer


def test_a_picture_may_come_from_standard_input(models_dir: Path) -> None:
    found = run("predict", "--models-dir", str(models_dir), "--device", "cpu", "--json", "-", stdin=ood_png())
    assert found.returncode == 0
    assert found.stderr == b""
    assert json.loads(found.stdout)["predictions"][0]["ood"]["rejected"]


def test_an_unreadable_picture_is_named_and_the_others_are_answered(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: tmp_path / name for name in ("good.png", "[bad].png", "missing.png")}
    paths["good.png"].write_bytes(id_png())
    paths["[bad].png"].write_bytes(b"hello")
    assert predict("--models-dir", str(models_dir), *map(str, paths.values())) == 1
    found = capsys.readouterr()
    assert "good.png" in found.out
    assert "accepted" in found.out
    assert f"oodgate: {paths['[bad].png']}: the 5 bytes are none of the accepted formats" in found.err
    assert f"oodgate: {paths['missing.png']}: No such file or directory" in found.err


def test_pictures_of_a_folder_that_are_not_decoded_are_told_and_what_is_no_picture_is_not(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "deeper/b.HEIC", "c.heic", "d.avif", "notes.txt", "e.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(id_png())
    assert main(["predict", "--models-dir", str(models_dir), "--device", "cpu", "--json", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert [Path(json.loads(line)["predictions"][0]["filename"]).name for line in said.out.splitlines()] == ["a.png", "e.jfif"]
    assert said.err == f"{tmp_path}: 3 pictures of formats that are not decoded are left out: .avif .heic\n"


def test_hidden_files_of_a_folder_are_no_pictures(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (".x.png", "._good.png"):
        (tmp_path / name).write_bytes(b"hello")
    (tmp_path / "good.png").write_bytes(id_png())
    assert predict("--models-dir", str(models_dir), "--json", str(tmp_path)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert predict("--models-dir", str(models_dir), str(tmp_path / ".x.png")) == 1, "named, it is tried"


def test_a_folder_without_pictures_is_refused(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--models-dir", str(models_dir), str(tmp_path)) == 1
    assert capsys.readouterr().err == f"oodgate: {tmp_path}: no pictures there\n"


def test_a_file_name_that_is_no_text_is_answered_with_a_replacement_character(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(id_png())
    options = ("predict", "--models-dir", str(models_dir), "--device", "cpu", str(tmp_path))
    found = run(*options, "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["predictions"][0]["filename"] == str(tmp_path / "caf\N{REPLACEMENT CHARACTER}.png")
    assert json.loads(run(*options, "--json", "--fdr", "0.1").stdout)["filename"] == str(tmp_path / "caf\N{REPLACEMENT CHARACTER}.png")
    table = run(*options)
    assert (table.returncode, table.stderr) == (0, b"")


def test_predict_takes_another_version_when_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in (1, 2):
        write_bundle(tmp_path, version=version, images=100)
    (tmp_path / "a.png").write_bytes(id_png())
    assert predict("--models-dir", str(tmp_path), "--json", "--version", "1", str(tmp_path / "a.png")) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert predict("--models-dir", str(tmp_path), "--version", "3", str(tmp_path / "a.png")) == 1
    assert capsys.readouterr().err == "oodgate: tiny has no version 3, it has 1, 2\n"


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in Settings.model_fields)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"oodgate {__version__}\n"


def test_ctrl_c_ends_predict_without_a_traceback(models_dir: Path, tmp_path: Path) -> None:
    folder, picture = tmp_path / "pictures", tmp_path / "picture.png"
    picture.write_bytes(id_png())
    folder.mkdir()
    for i in range(2000):
        (folder / f"{i}.png").symlink_to(picture)
    # A shell without job control hands its background commands an ignored SIGINT.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from service.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "predict", str(folder), "--json", "--models-dir", str(models_dir), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as running:
        assert running.stdout
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, b"")


def test_predict_with_fdr_flags_all_pictures_together(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, image in enumerate(pixels(40, 77)):
        (tmp_path / f"{place:02}.png").write_bytes(png(image))
    for place in range(5):
        (tmp_path / f"black{place}.png").write_bytes(ood_png())
    (tmp_path / "broken.png").write_bytes(b"hello")
    assert predict("--models-dir", str(models_dir), "--fdr", "0.1", "--json", str(tmp_path)) == 1, "one is unreadable"
    flags = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(flags) == 45
    flagged = {Path(entry["filename"]).name for entry in flags if entry["flagged"]}
    assert flagged >= {f"black{place}.png" for place in range(5)}
    assert len(flagged) <= 7
    predict("--models-dir", str(models_dir), "--fdr", "0.1", str(tmp_path))
    assert f"{len(flagged)} of 45 flagged; on average at most 0.1 of what is flagged is fine" in capsys.readouterr().out


def test_predict_with_fdr_says_how_many_calibration_images_so_many_pictures_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path, images=100)
    picture = tmp_path / "a.png"
    picture.write_bytes(id_png())
    assert predict("--models-dir", str(tmp_path), "--fdr", "0.1", *[str(picture)] * 11) == 1
    said = capsys.readouterr().err
    assert said.startswith("oodgate: fdr 0.1 over 11 pictures needs at least 109 calibration images, tiny version 1 has 100, enough for 10 pictures")
    assert predict("--models-dir", str(tmp_path), "--fdr", "0.1", *[str(picture)] * 10) == 0
