import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.__main__ import main
from service.bundle.decision import images_needed, open_gate
from service.bundle.manifest import load_bundle
from service.bundle.preprocess import Pixels
from service.runtime import Runtime
from tests.bundles import POISON, id_png, ood_png, pixels, png, write_bundle
from tests.servers import serving


def calibrate(models_dir: Path, *arguments: str) -> int:
    return main(["calibrate", "--models-dir", str(models_dir), "--device", "cpu", "--intra-op-threads", "1", *arguments])


def write(folder: Path, images: Pixels) -> Path:
    folder.mkdir()
    for place, image in enumerate(images):
        (folder / f"{place:04}.png").write_bytes(png(image))
    return folder


def dimmed(count: int) -> Pixels:
    """ID pictures of another camera: all a little darker."""
    images = (pixels(count, 50) * 0.8).astype(np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 0, 0].clip(POISON + 1)
    return images


def test_a_new_version_has_the_same_graph_and_thresholds_from_the_new_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_bundle(write_bundle(tmp_path / "models"))
    old_files = {file.name: file.read_bytes() for file in before.folder.iterdir()}
    images = dimmed(200)
    assert calibrate(tmp_path / "models", "--description", "dimmed", str(write(tmp_path / "new", images))) == 0
    after = load_bundle(tmp_path / "models/tiny/2")
    assert {file.name: file.read_bytes() for file in before.folder.iterdir()} == old_files
    assert after.model == before.model
    np.testing.assert_array_equal(after.golden.scores, before.golden.scores)
    info = after.manifest.calibration
    assert (info.n, info.alpha, info.delta, info.data, info.recalibrated_from) == (200, 0.05, 0.05, "dimmed", 1)
    probabilities, scores = Runtime(after, "cpu", 1).run(images)
    for row, column in zip(after.calibration.scores, scores.T, strict=True):
        np.testing.assert_allclose(row, np.sort(column), atol=1e-5)
    assert sorted(after.calibration.predicted[0]) == sorted(probabilities.argmax(axis=1))
    said = capsys.readouterr().out
    assert "alpha 0.05: with 95% confidence at most 0.05 of such pictures are rejected; n = 200" in said
    assert "alphas: 0.001 needs 2995, 0.005 needs 598, 0.01 needs 299" in said
    assert "version 1 stays. In service after SIGHUP, POST /models/tiny/reload (admin key), or by itself with --watch" in said


def test_of_the_evaluation_stays_what_no_threshold_enters(tmp_path: Path) -> None:
    before = load_bundle(write_bundle(tmp_path / "models"))
    calibrate(tmp_path / "models", str(write(tmp_path / "new", dimmed(100))))
    after = load_bundle(tmp_path / "models/tiny/2").evaluation
    assert (after.accuracy, after.ece) == (before.evaluation.accuracy, before.evaluation.ece)
    for key, entry in after.postprocessors.items():
        assert entry.sets == before.evaluation.postprocessors[key].sets
        assert entry.operating_points == ()


def test_too_few_pictures_are_refused_with_the_number_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "models")
    pictures = write(tmp_path / "new", pixels(58, 1))
    for name in ("copy1.png", "copy2.png"):
        (pictures / name).write_bytes((pictures / "0000.png").read_bytes())
    assert calibrate(tmp_path / "models", str(pictures)) == 1
    wanted = "oodgate: alpha 0.05 with guarantee pac needs at least 59 distinct, readable pictures, there are 58\n"
    assert capsys.readouterr().err == wanted
    assert calibrate(tmp_path / "models", "--alpha", "0.01", "--guarantee", "marginal", str(pictures)) == 1
    assert "alpha 0.01 with guarantee marginal needs at least 99" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "models/tiny").iterdir()] == ["1"]


def test_unreadable_pictures_and_copies_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "models")
    pictures = write(tmp_path / "new", pixels(60, 1))
    (pictures / "broken.png").write_bytes(b"hello")
    (pictures / "._0000.png").write_bytes(b"hidden, hence no picture")
    (pictures / "copy.png").write_bytes((pictures / "0000.png").read_bytes())
    assert calibrate(tmp_path / "models", str(pictures)) == 0
    said = capsys.readouterr()
    assert "left out: 1 copies of other pictures, 1 unreadable" in said.out
    assert f"{pictures / 'broken.png'}: the 5 bytes are none of the accepted formats" in said.err
    assert load_bundle(tmp_path / "models/tiny/2").manifest.calibration.n == 60


def test_a_class_with_enough_pictures_gets_its_own_threshold_and_the_others_one_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "models")
    images = pixels(600, 8)
    strongest = images.mean(axis=(1, 2)).argmax(axis=1)
    # Of blue there are 40, fewer than the 59 that a PAC threshold needs, so the smaller of the others joins it.
    chosen = images[(strongest != 2) | ((strongest == 2).cumsum() <= 40)]
    smaller, larger = ("red", "green") if (strongest == 0).sum() < (strongest == 1).sum() else ("green", "red")
    assert calibrate(tmp_path / "models", "--per-class", str(write(tmp_path / "new", chosen))) == 0
    said = capsys.readouterr().out
    assert "at most 0.05 of such pictures, of each class that has a threshold of its own and of the others together, are rejected" in said
    assert "1 of 3 classes have a threshold of their own; one together, for which 59 pictures are needed, have " in said
    bundle = load_bundle(tmp_path / "models/tiny/2")
    listed = bundle.manifest.calibration.per_class
    assert listed is not None
    assert {name: entry.threshold for name, entry in listed.items()} == {"red": "own", "green": "own", "blue": "pooled"}
    assert listed["blue"].images == 40
    column, alpha = 2, 0.05
    scores, predicted = bundle.calibration.scores[column], bundle.calibration.predicted[column]
    alone = predicted == ("red", "green").index(larger)
    rest = open_gate(scores[~alone], alpha, "pac", 0.05).threshold
    expected = {larger: open_gate(scores[alone], alpha, "pac", 0.05).threshold, smaller: rest, "blue": rest}
    with serving(tmp_path / "models") as client:
        seen = {}
        for image in pixels(30, 4):
            prediction = client.post("/predict", content=png(image)).json()["predictions"][0]
            ood = prediction["ood"]
            seen[prediction["label"]] = ood["threshold"]
            assert ood["rejected"] == (ood["raw_score"] > ood["threshold"])
        assert seen == pytest.approx(expected)
        (point,) = (point for point in client.get("/models/tiny").json()["operating_points"]["knn"] if point["alpha"] == alpha)
        assert point["class_thresholds"] == pytest.approx({larger: expected[larger]})
        assert point["threshold"] == pytest.approx(expected["blue"])
        (rare,) = (point for point in client.get("/models/tiny").json()["operating_points"]["knn"] if point["alpha"] == 0.01)
        assert rare["class_thresholds"] == {}, f"fewer than {images_needed(0.01, 'pac', 0.05)} of each"


def test_a_bundle_calibrated_per_class_stays_so_until_told_otherwise(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    pictures = str(write(tmp_path / "new", pixels(100, 1)))
    for options in (["--per-class"], [], ["--no-per-class"]):
        assert calibrate(tmp_path / "models", *options, pictures) == 0
    found = [load_bundle(tmp_path / f"models/tiny/{version}").manifest.calibration.per_class for version in (2, 3, 4)]
    assert [listed is not None for listed in found] == [True, True, False]
    assert "per_class" not in json.loads((tmp_path / "models/tiny/4/manifest.json").read_text())["calibration"]


def test_a_reload_puts_the_new_version_in_service(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    with serving(tmp_path / "models", admin_keys=("secret",)) as client:
        calibrate(tmp_path / "models", str(write(tmp_path / "new", dimmed(100))))
        reloaded = client.post("/models/tiny/reload", headers={"X-API-Key": "secret"})
        assert reloaded.json()["version"] == 2
        answer: httpx.Response = client.post("/predict", content=id_png())
        assert answer.json()["version"] == 2
        assert client.post("/predict", content=ood_png()).json()["predictions"][0]["ood"]["rejected"]


def test_a_single_picture_on_standard_input_is_refused(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(models_dir, "-") == 1
    assert re.match("oodgate: calibrate takes files, folders and URLs", capsys.readouterr().err)
