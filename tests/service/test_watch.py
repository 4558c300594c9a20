"""What is watched of a model, through the server."""

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.__main__ import main
from tests.bundles import id_png, ood_png, pixels, png, write_bundle
from tests.servers import serving
from tests.service.test_metrics import scrape, value

ADMIN = {"X-API-Key": "admin"}


def send(client: httpx.Client, *pictures: bytes, **params: Any) -> None:
    for start in range(0, len(pictures), 32):
        files = [("file", picture) for picture in pictures[start : start + 32]]
        assert client.post("/predict", files=files, params=params).status_code == 200


def drift(client: httpx.Client, name: str = "tiny", **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/models/{name}", params=params).json()["monitor"]["drift"]
    return found


CLEAN = [id_png(seed) for seed in range(320)]


def test_clean_traffic_raises_no_alarm_and_thirty_percent_ood_raises_it_within_fifty_requests(models_dir: Path) -> None:
    random = np.random.default_rng(0)
    with serving(models_dir, prevalence_window=300) as client:
        send(client, *CLEAN)
        series = scrape(client)
        assert value(series, "drift_alarm", model="tiny") == 0
        assert value(series, "drift_log_e_value", model="tiny") < 2
        assert value(series, "ood_prevalence_ratio", model="tiny") < 0.1
    with serving(models_dir, prevalence_window=300) as client:
        mixed = [ood_png() if random.random() < 0.3 else CLEAN[place % 320] for place in range(300)]
        for picture in mixed[:50]:
            client.post("/predict", content=picture)
        assert drift(client)["alarm"]
        assert drift(client)["alarmed_at"] <= 50
        send(client, *mixed[50:])
        series = scrape(client)
        assert value(series, "drift_alarm", model="tiny") == 1
        assert value(series, "drift_log_e_value", model="tiny") == drift(client)["log_e_value"] > math.log(100)
        error = value(series, "ood_prevalence_standard_error_ratio", model="tiny")
        assert value(series, "ood_prevalence_ratio", model="tiny") == pytest.approx(0.3, abs=2 * error)
        assert error < 0.05
        assert 0.1 < value(series, "ood_prevalence_lower_ratio", model="tiny") < value(series, "ood_prevalence_ratio", model="tiny")


def test_what_requests_ask_for_does_not_move_the_watch_nor_do_shadows(models_dir: Path) -> None:
    with serving(models_dir, shadow_postprocessors=("msp",)) as client:
        send(client, *CLEAN[:64], alpha=0.5, postprocessor="ebo")
        asked = drift(client)
    with serving(models_dir) as client:
        send(client, *CLEAN[:64])
        assert drift(client) == asked
    assert asked["images"] == 64


def test_where_only_a_marginal_guarantee_is_served_the_alarm_still_counts_by_the_pac_gate(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=200)
    with serving(tmp_path, guarantee="marginal") as client:
        send(client, *CLEAN)
        marginal = drift(client)["rejected"]
        answered = value(scrape(client), "predictions_total", model="tiny", version="1", postprocessor="knn", decision="rejected")
    with serving(tmp_path, guarantee="pac") as client:
        send(client, *CLEAN)
        assert drift(client)["rejected"] == marginal < answered


def test_where_classes_have_their_own_thresholds_the_alarm_counts_by_the_pooled_one(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", images=200)
    (tmp_path / "new").mkdir()
    for place, image in enumerate(pixels(400, 8)):
        (tmp_path / "new" / f"{place}.png").write_bytes(png(image))
    for options in (["--per-class"], ["--no-per-class"]):
        assert main(["calibrate", "--models-dir", str(tmp_path / "models"), "--device", "cpu", *options, str(tmp_path / "new")]) == 0
    with serving(tmp_path / "models", loaded_versions=2) as client:
        for version in (2, 3):
            send(client, *CLEAN, version=version)
        by_class, pooled = (drift(client, version=version)["rejected"] for version in (2, 3))
        series = scrape(client)
    answered = value(series, "predictions_total", model="tiny", version="2", postprocessor="knn", decision="rejected")
    assert by_class == pooled != answered


def test_with_too_few_calibration_images_there_is_no_alarm_rather_than_one_without_a_promise(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=40)
    with serving(tmp_path, guarantee="marginal") as client:
        send(client, *CLEAN[:10])
        assert drift(client) is None
        series = scrape(client)
    assert not any(name.startswith("oodgate_drift") for name, _ in series)
    assert value(series, "ood_prevalence_ratio", model="tiny") >= 0


def test_evidence_goes_on_when_the_same_version_is_loaded_again_and_begins_anew_with_a_new_one(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=200)
    with serving(tmp_path, admin_keys=("admin",)) as client:
        send(client, *[ood_png()] * 8)
        before = drift(client)
        assert before["alarm"]
        client.post("/models/tiny/reload", headers=ADMIN)
        assert drift(client) == before
        write_bundle(tmp_path, version=2, images=200)
        client.post("/models/tiny/reload", headers=ADMIN)
        assert drift(client) == {"alarm": False, "log_e_value": pytest.approx(0), "images": 0, "rejected": 0, "alarmed_at": None}
        series = scrape(client)
    assert value(series, "drift_alarm", model="tiny") == 0
    versions = {labels for name, labels in series if name in ("oodgate_model_info", "oodgate_feedback_images", "oodgate_ood_p_value_reference_ratio")}
    assert {dict(labels)["version"] for labels in versions} == {"2"}


def test_several_versions_are_watched_apart_and_shown_together(tmp_path: Path) -> None:
    for version in (1, 2):
        write_bundle(tmp_path, version=version, images=200)
    write_bundle(tmp_path, name="other", images=200)
    with serving(tmp_path, model="tiny", loaded_versions=2) as client:
        send(client, *[ood_png()] * 8, version=1)
        send(client, *CLEAN[:8], version=2)
        old, new = (drift(client, version=version) for version in (1, 2))
        assert (old["alarm"], new["alarm"]) == (True, False)
        series = scrape(client)
    assert value(series, "drift_alarm", model="tiny") == 1
    assert value(series, "drift_alarm", model="other") == 0
    mean = (math.exp(old["log_e_value"]) + math.exp(new["log_e_value"])) / 2
    assert value(series, "drift_log_e_value", model="tiny") == pytest.approx(math.log(mean))
    # Half of 16 images, in one window.
    assert value(series, "ood_prevalence_ratio", model="tiny") == pytest.approx(0.5, abs=0.2)


def test_an_acknowledged_alarm_is_taken_back_and_can_be_raised_again(models_dir: Path) -> None:
    with serving(models_dir, admin_keys=("admin",)) as client:
        send(client, *[ood_png()] * 8)
        assert client.post("/models/tiny/acknowledge").status_code == 401
        assert client.post("/models/other/acknowledge", headers=ADMIN).status_code == 404
        assert not client.post("/models/tiny/acknowledge", headers=ADMIN).json()["drift"]["alarm"]
        assert value(scrape(client), "drift_alarm", model="tiny") == 0
        send(client, *[ood_png()] * 8)
        assert value(scrape(client), "drift_alarm", model="tiny") == 1
    with serving(models_dir) as client:
        assert "setting admin_keys names none" in client.post("/models/tiny/acknowledge").json()["detail"]


def test_the_reference_of_the_p_values_is_their_share_among_id_images(models_dir: Path) -> None:
    with serving(models_dir, alpha=0.03) as client:
        series = scrape(client)
    bounds = {dict(labels)["le"]: found for (name, labels), found in series.items() if name == "oodgate_ood_p_value_reference_ratio"}
    buckets = {dict(labels)["le"] for name, labels in series if name == "oodgate_ood_p_value_bucket"}
    # p-values of 1000 calibration images are multiples of 1 / 1001.
    assert bounds["0.03"] == 30 / 1001
    assert bounds["1.0"] == 1
    assert buckets - {"+Inf"} == set(bounds)
