from pathlib import Path

import httpx
import pytest

from service.bundle.decision import open_gate
from service.bundle.manifest import load_bundle
from tests.bundles import id_png, write_bundle
from tests.servers import serving


def test_models_lists_what_is_loaded_and_where_it_really_runs(client: httpx.Client) -> None:
    (model,) = client.get("/models").json()["models"]
    assert model == {
        "name": "tiny",
        "version": 1,
        "default": True,
        "classes": 3,
        "postprocessors": ["msp", "ebo", "knn"],
        "postprocessor": "knn",
        "alpha": 0.05,
        "guarantee": "pac",
        "provider": "CPUExecutionProvider",
        "device": "cpu",
    }


def test_a_model_shows_its_manifest_and_evaluation(client: httpx.Client, models_dir: Path) -> None:
    bundle = load_bundle(models_dir / "tiny/1")
    detail = client.get("/models/tiny").json()
    assert detail["manifest"] == bundle.manifest.model_dump(mode="json")
    assert detail["evaluation"] == bundle.evaluation.model_dump(mode="json")


def test_operating_points_say_what_each_alpha_promises_and_what_was_measured(client: httpx.Client, models_dir: Path) -> None:
    calibration = load_bundle(models_dir / "tiny/1").calibration
    points = client.get("/models/tiny").json()["operating_points"]
    assert list(points) == ["msp", "ebo", "knn"]
    # 0.001 is not among them: a thousand images cannot promise it.
    assert [point["alpha"] for point in points["ebo"]] == [0.005, 0.01, 0.02, 0.05, 0.1]
    for point in points["ebo"]:
        gate = open_gate(calibration.scores[1], point["alpha"], "pac", 0.05)
        assert point["threshold"] == pytest.approx(gate.threshold, abs=1e-6)
        assert point["expected_false_reject_ratio"] == gate.expected_false_reject_ratio <= point["alpha"]
    measured = {point["alpha"]: (point["measured_false_reject_ratio"], point["ood_caught_ratio"]) for point in points["ebo"]}
    assert measured[0.05] == (0.04, {"black": 0.97})
    assert measured[0.01] == (None, {})


def test_of_every_model_the_highest_version_is_loaded_and_the_named_one_answers(tmp_path: Path) -> None:
    for name, version in (("one", 2), ("one", 10), ("two", 1)):
        write_bundle(tmp_path, name, version, images=100)
    with serving(tmp_path, model="two") as client:
        loaded = [(model["name"], model["version"], model["default"]) for model in client.get("/models").json()["models"]]
        assert loaded == [("one", 10, False), ("two", 1, True)]
        assert client.post("/predict", content=id_png()).json()["model"] == "two"
        assert client.post("/predict", content=id_png(), params={"model": "one"}).json()["version"] == 10
        refused = client.post("/predict", content=id_png(), params={"model": "one", "version": 2})
        assert (refused.status_code, refused.json()["detail"]) == (404, "one version 2 is not loaded; loaded: one version 10, two version 1")
