import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service import counting
from service.bundle.decision import open_gate, p_values
from service.bundle.manifest import load_bundle
from service.runtime import Runtime
from tests.bundles import CLASSES, id_png, ood_png, pixels, png
from tests.servers import serving


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def ask(client: httpx.Client, picture: bytes, **query: object) -> dict[str, Any]:
    return answer(client.post("/predict", content=picture, headers={"Content-Type": "image/png"}, params=query))  # type: ignore[arg-type]


def test_a_raw_image_is_answered_with_class_score_and_decision(client: httpx.Client, models_dir: Path) -> None:
    picture = pixels(1, 99)
    body = ask(client, png(picture[0]))
    bundle = load_bundle(models_dir / "tiny/1")
    probabilities, scores = Runtime(bundle, "cpu", 1).run(picture)
    gate = open_gate(bundle.calibration.scores[2], 0.05, "pac", 0.05)
    p_value = p_values(bundle.calibration.scores[2], scores[:, 2])[0]
    best = int(probabilities[0].argmax())
    assert {key: body[key] for key in ("model", "version", "postprocessor", "alpha", "guarantee")} == {
        "model": "tiny",
        "version": 1,
        "postprocessor": "knn",
        "alpha": 0.05,
        "guarantee": "pac",
    }
    (prediction,) = body["predictions"]
    assert (prediction["filename"], prediction["label"], prediction["class_id"]) == (None, CLASSES[best], best)
    assert prediction["probability"] == pytest.approx(float(probabilities[0, best]), abs=1e-6)
    assert prediction["ood"] == {
        "raw_score": pytest.approx(float(scores[0, 2]), abs=1e-6),
        "threshold": pytest.approx(gate.threshold, abs=1e-6),
        "p_value": pytest.approx(p_value),
        "ood_score": pytest.approx(1 - p_value),
        "rejected": bool(scores[0, 2] > gate.threshold),
    }


def test_a_strange_image_is_rejected_with_200(client: httpx.Client) -> None:
    ood = ask(client, ood_png())["predictions"][0]["ood"]
    assert ood["rejected"]
    assert ood["raw_score"] > ood["threshold"]
    assert ood["p_value"] == pytest.approx(1 / 1001)


def test_the_three_body_forms_give_the_same_answer(client: httpx.Client) -> None:
    pictures = [id_png(1), ood_png()]
    raw = [ask(client, picture)["predictions"][0] for picture in pictures]
    multipart = answer(client.post("/predict", files=[("file", (f"{place}.png", picture)) for place, picture in enumerate(pictures)]))["predictions"]
    text = answer(client.post("/predict", json={"images": [base64.b64encode(picture).decode() for picture in pictures]}))["predictions"]
    assert [prediction["filename"] for prediction in multipart] == ["0.png", "1.png"]
    assert [prediction["filename"] for prediction in text] == [None, None]
    for found in (multipart, text):
        for prediction, expected in zip(found, raw, strict=True):
            assert prediction["label"] == expected["label"]
            assert prediction["ood"]["rejected"] == expected["ood"]["rejected"]
            assert prediction["ood"]["raw_score"] == pytest.approx(expected["ood"]["raw_score"], abs=1e-5)


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "application/octet-stream", "IMAGE/PNG; charset=binary", None])
def test_the_bytes_and_not_the_content_type_say_which_format_it_is(client: httpx.Client, content_type: str | None) -> None:
    answer(client.post("/predict", content=id_png(), headers={"Content-Type": content_type} if content_type else {}))


def test_a_multipart_body_may_have_other_fields(client: httpx.Client) -> None:
    assert len(answer(client.post("/predict", data={"note": "hello"}, files={"file": id_png()}))["predictions"]) == 1


def test_a_multipart_body_may_come_in_any_chunks(client: httpx.Client) -> None:
    request = client.build_request("POST", "/predict", files={"file": ("ä b.png", id_png())})
    body = request.read()
    chunks = (body[place : place + 7] for place in range(0, len(body), 7))
    found = answer(client.post("/predict", content=chunks, headers={"Content-Type": request.headers["Content-Type"]}))
    assert found["predictions"][0]["filename"] == "ä b.png"


def test_top_k_lists_the_most_probable_classes_in_order(client: httpx.Client) -> None:
    everything = ask(client, id_png())["predictions"][0]["top_k"]
    assert len(everything) == 3
    assert [entry["probability"] for entry in everything] == sorted((entry["probability"] for entry in everything), reverse=True)
    assert sum(entry["probability"] for entry in everything) == pytest.approx(1, abs=1e-5)
    assert ask(client, id_png(), top_k=2)["predictions"][0]["top_k"] == everything[:2]


def test_another_post_processor_decides_when_asked(client: httpx.Client) -> None:
    body = ask(client, ood_png(), postprocessor="msp")
    assert body["postprocessor"] == "msp"
    assert body["predictions"][0]["ood"]["raw_score"] == pytest.approx(-1 / 3, abs=1e-6)


def test_a_larger_alpha_lowers_the_threshold(client: httpx.Client) -> None:
    thresholds = [ask(client, id_png(), alpha=alpha)["predictions"][0]["ood"]["threshold"] for alpha in (0.01, 0.05, 0.2)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) == 3


def test_the_model_and_its_version_may_be_named(client: httpx.Client) -> None:
    assert ask(client, id_png(), model="tiny", version=1) == ask(client, id_png())


def test_a_single_image_s_decision_is_in_a_header_too(client: httpx.Client) -> None:
    for picture, rejected in ((id_png(), "false"), (ood_png(), "true")):
        assert client.post("/predict", content=picture).headers["X-OOD-Rejected"] == rejected
    assert "X-OOD-Rejected" not in client.post("/predict", files=[("file", id_png()), ("file", ood_png())]).headers


def test_server_timing_says_where_the_time_went(client: httpx.Client) -> None:
    timing = client.post("/predict", content=id_png()).headers["Server-Timing"]
    found = re.fullmatch(r"decode;dur=([\d.]+), queue;dur=([\d.]+), infer;dur=([\d.]+)", timing)
    assert found
    assert float(found[1]) > 0
    assert float(found[3]) > 0


def test_floats_are_written_as_float32_is(client: httpx.Client) -> None:
    text = client.post("/predict", content=id_png()).text
    assert all(len(digits) <= 12 for digits in re.findall(r'"(?:probability|raw_score|threshold)":-?([\d.e-]+)', text))


def test_of_64_concurrent_clients_each_gets_exactly_its_own_answer(models_dir: Path) -> None:
    pictures = [png(image) for image in pixels(64, 42)]
    with serving(models_dir) as client, ThreadPoolExecutor(64) as threads:
        alone = [ask(client, picture) for picture in pictures]
        for together in (list(threads.map(lambda picture: ask(client, picture), pictures)) for _ in range(3)):
            for found, expected in zip(together, alone, strict=True):
                (mine,), (own,) = found["predictions"], expected["predictions"]
                assert mine["label"] == own["label"]
                assert mine["ood"]["raw_score"] == pytest.approx(own["ood"]["raw_score"], abs=1e-5)
        batches = float(re.search(r"^oodgate_batch_images_count (\S+)", client.get("/metrics").text, re.M)[1])  # type: ignore[index]
        assert batches < 4 * 64, "nobody ever shared a batch"


def test_a_picture_is_decided_alike_alone_and_in_any_batch(models_dir: Path) -> None:
    pictures = [png(image) for image in pixels(48, 43)] + [ood_png()]
    with serving(models_dir, max_images_per_request=64, max_batch_size=16) as client:
        alone = [ask(client, picture)["predictions"][0]["ood"]["rejected"] for picture in pictures]
        for size in (2, 5, 49):
            order = np.random.default_rng(size).permutation(len(pictures))[:size]
            together = answer(client.post("/predict", files=[("file", pictures[place]) for place in order]))["predictions"]
            assert [prediction["ood"]["rejected"] for prediction in together] == [alone[place] for place in order]
        assert alone[-1]
        assert sum(alone) < 10


def test_the_api_is_documented_with_its_bodies_answers_and_problems(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/predict"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == [
        *("model", "version", "postprocessor", "alpha", "top_k"),
        "X-Request-Timeout-Ms",
    ]
    assert {"image/png", "multipart/form-data", "application/json"} < set(operation["requestBody"]["content"])
    assert operation["responses"]["200"]["content"]["application/json"]["example"]["predictions"][0]["label"] == "cat"
    for status in ("400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504"):
        assert operation["responses"][status]["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "request_id" in schema["components"]["schemas"]["Problem"]["required"]
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("route", ["/predict", "/v2/models/tiny/infer"])
def test_the_client_has_its_answer_before_it_is_counted(models_dir: Path, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    read, counted = threading.Event(), []

    monkeypatch.setattr(counting, "count", lambda *_: counted.append(read.wait(10)))
    picture = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(ood_png()).decode()]}
    with serving(models_dir) as client:
        answer(client.post(route, json={"inputs": [picture]} if "v2" in route else {"images": picture["data"]}))
        read.set()
    assert counted == [True]
