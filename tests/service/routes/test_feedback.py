from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bundles import id_png, ood_png, write_bundle
from tests.servers import serving
from tests.service.test_metrics import scrape, value

ADMIN = {"X-API-Key": "admin"}


def ask(client: httpx.Client, *pictures: bytes, **params: Any) -> str:
    answer = client.post("/predict", files=[("file", picture) for picture in pictures], params=params)
    assert answer.status_code == 200
    return answer.headers["X-Request-ID"]


def tell(client: httpx.Client, request_id: str, **told: Any) -> httpx.Response:
    return client.post("/feedback", json={"request_id": request_id, **told})


def test_feedback_becomes_rates_with_bounds_in_metrics_and_in_the_model(models_dir: Path) -> None:
    with serving(models_dir) as client:
        for seed in range(8):
            assert tell(client, ask(client, id_png(seed)), was_ood=False).status_code == 200
        receipt = tell(client, ask(client, ood_png()), label="red").json()
        both = ask(client, ood_png(), id_png())
        tell(client, both, position=1, was_ood=True)
        tell(client, both, position=2, was_ood=True)
        found = client.get("/models/tiny").json()["monitor"]["feedback"]
        series = scrape(client)
    assert receipt | {"request_id": ""} == {
        "request_id": "", "model": "tiny", "version": 1, "position": 1, "truth": "id", "decision": "rejected"
    }  # fmt: skip
    # 1 of 9: Clopper and Pearson's bounds are 0.28 % and 48.2 %.
    assert found["false_reject"] == {
        "images": 9, "events": 1, "ratio": pytest.approx(1 / 9), "lower": pytest.approx(0.0028, abs=1e-4), "upper": pytest.approx(0.4825, abs=1e-4)
    }  # fmt: skip
    assert (found["missed_ood"]["images"], found["missed_ood"]["events"]) == (2, 1)
    who = {"model": "tiny", "version": "1"}
    assert value(series, "feedback_images", truth="id", decision="rejected", **who) == 1
    assert value(series, "feedback_images", truth="ood", decision="accepted", **who) == 1
    assert value(series, "false_reject_ratio", bound="estimate", **who) == pytest.approx(1 / 9)
    assert value(series, "missed_ood_ratio", bound="upper", **who) == found["missed_ood"]["upper"]


def test_feedback_is_about_the_model_s_own_gate_whatever_the_request_asked(models_dir: Path) -> None:
    with serving(models_dir) as client:
        request_id = ask(client, id_png(), alpha=0.5, postprocessor="msp")
        assert tell(client, request_id, was_ood=False).json()["decision"] == "accepted"


@pytest.mark.parametrize(
    ("told", "status", "name", "detail"),
    [
        ({"was_ood": True}, 422, "wrong-feedback", "position is None, the request had 2 images: it must be between 1 and 2"),
        ({"was_ood": True, "position": 3}, 422, "wrong-feedback", "position is 3, the request had 2 images"),
        ({"label": "mauve", "position": 1}, 422, "wrong-feedback", "label 'mauve' is no class of tiny; if the image shows none of its classes"),
        ({}, 400, "malformed-body", "give either label or was_ood"),
        ({"label": "red", "was_ood": True}, 400, "malformed-body", "give either label or was_ood"),
        ({"was_ood": True, "position": 0}, 400, "malformed-body", "position: Input should be greater than or equal to 1"),
        ({"was_ood": True, "truth": 1}, 400, "malformed-body", "truth: Extra inputs are not permitted"),
        ({"was_ood": True, "request_id": "other"}, 404, "unknown-request", "request other is not among the latest 10000"),
    ],
)
def test_feedback_that_does_not_fit_is_refused(client: httpx.Client, told: dict[str, Any], status: int, name: str, detail: str) -> None:
    refused = client.post("/feedback", json={"request_id": ask(client, id_png(), id_png())} | told)
    assert (refused.status_code, refused.json()["type"]) == (status, f"urn:oodgate:problem:{name}")
    assert detail in refused.json()["detail"]


def test_a_body_of_feedback_is_no_larger_than_others(client: httpx.Client) -> None:
    assert client.post("/feedback", content=b" " * 300_000).status_code == 413


def test_feedback_about_a_version_that_is_gone_is_refused_and_about_a_reloaded_one_taken(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, admin_keys=("admin",)) as client:
        first, second = ask(client, id_png()), ask(client, id_png())
        assert client.post("/models/tiny/reload", headers=ADMIN).status_code == 200
        assert tell(client, first, was_ood=False).status_code == 200
        write_bundle(tmp_path, version=2, images=100)
        assert client.post("/models/tiny/reload", headers=ADMIN).json()["version"] == 2
        refused = tell(client, second, was_ood=False)
        assert refused.status_code == 404
        assert "was answered by tiny version 1, which is not loaded any more" in refused.json()["detail"]
        assert client.get("/models/tiny").json()["monitor"]["feedback"]["false_reject"]["images"] == 0
