import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.__main__ import main
from tests.bundles import ood_png, pixels, png, write_bundle


def replay(models_dir: Path, *arguments: str) -> int:
    return main(["replay", "--models-dir", str(models_dir), "--device", "cpu", "--intra-op-threads", "1", *arguments])


def predict(capsys: pytest.CaptureFixture[str], models_dir: Path, *arguments: str) -> dict[str, bool]:
    """Picture -> rejected."""
    main(["predict", "--models-dir", str(models_dir), "--device", "cpu", "--intra-op-threads", "1", "--json", *arguments])
    answers = [json.loads(line)["predictions"][0] for line in capsys.readouterr().out.splitlines()]
    return {answer["filename"]: answer["ood"]["rejected"] for answer in answers}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for place, image in enumerate(pixels(80, 6)):
        (folder / f"{place:02}.png").write_bytes(png(image))
    (folder / "black <b>.png").write_bytes(ood_png())
    return folder


def compared(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {entry["filename"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}


@pytest.mark.parametrize("options", [("--alpha", "0.3"), ("--postprocessor", "ebo"), ("--guarantee", "marginal", "--alpha", "0.2")])
def test_what_replay_says_of_a_candidate_is_what_it_then_does(
    models_dir: Path, pictures: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    now, then = predict(capsys, models_dir, str(pictures)), predict(capsys, models_dir, *options, str(pictures))
    assert now != then
    candidate = [option.replace("--", "--candidate-") for option in options]
    assert replay(models_dir, "--json", *candidate, str(pictures)) == 0
    found = compared(capsys)
    assert {name: (entry["now"]["rejected"], entry["candidate"]["rejected"]) for name, entry in found.items()} == {  # type: ignore[index]
        name: (now[name], then[name]) for name in now
    }
    words = {(False, True): "newly rejected", (True, False): "newly accepted"}
    assert {name: entry["change"] for name, entry in found.items()} == {name: words.get((now[name], then[name])) for name in now}


def test_another_version_or_bundle_is_compared(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "models")
    main(["calibrate", "--models-dir", str(tmp_path / "models"), "--device", "cpu", "--alpha", "0.2", str(pictures)])
    elsewhere = write_bundle(tmp_path / "elsewhere", images=100)
    for options in (("--version", "1", "--candidate-version", "2"), ("--version", "2", "--candidate-bundle", str(elsewhere))):
        capsys.readouterr()
        assert replay(tmp_path / "models", *options, str(pictures)) == 0
        said = capsys.readouterr().out
        assert re.search(r"81 pictures: \d+ newly rejected, \d+ newly accepted, 0 with another label; rejected \d+ now, \d+ by the candidate", said)


def test_the_page_shows_each_picture_that_changes_and_fetches_nothing(
    models_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    assert replay(models_dir, "--alpha", "0.3", "--candidate-alpha", "0.01", "--html", str(file), "--json", str(pictures)) == 0
    changed = [name for name, entry in compared(capsys).items() if entry["change"]]
    text = file.read_text()
    assert len(changed) > 5
    thumbnails = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(thumbnails) == len(changed)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnails[0]))))
    np.testing.assert_array_equal(shown, np.asarray(Image.open(changed[0])))
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert all(name in text for name in changed)


def test_names_are_escaped_in_the_page(models_dir: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    black = pictures / "black <b>.png"
    replay(models_dir, "--postprocessor", "msp", "--alpha", "0.3", "--candidate-alpha", "0.005", "--html", str(file), str(pictures))
    assert str(black) not in file.read_text()


def test_a_candidate_that_does_not_differ_is_refused(models_dir: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(models_dir, str(pictures)) == 1
    assert capsys.readouterr().err.startswith("oodgate: nothing is to be compared: name a --candidate-version")


def test_a_candidate_that_cannot_keep_its_promise_is_refused(models_dir: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(models_dir, "--candidate-alpha", "0.001", str(pictures)) == 1
    assert "alpha 0.001 with guarantee pac needs at least 2995 calibration images" in capsys.readouterr().err


def test_a_folder_without_pictures_is_refused(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(models_dir, "--candidate-alpha", "0.01", str(tmp_path)) == 1
    assert "there are none in" in capsys.readouterr().err
