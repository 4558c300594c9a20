"""The Open Inference Protocol, asked by an unmodified tritonclient, and by hand what that client would not send."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service.bundle.decision import open_gate, p_values
from service.bundle.manifest import load_bundle
from service.runtime import Runtime
from service.tensors import HEADER_LENGTH
from tests.bundles import id_png, ood_png, pixels, png
from tests.servers import serving, started, wait_until_ready
from tests.service.test_errors import check

INFER = "/v2/models/tiny/infer"


def triton_of(client: httpx.Client) -> triton.InferenceServerClient:
    """Triton's own client of the same server; open it with `with`."""
    return triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")


@pytest.fixture(scope="module")
def asking(client: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton_of(client) as asking:
        yield asking


def tensor(images: np.ndarray[Any, Any], binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("images", list(images.shape), "UINT8" if images.dtype == np.uint8 else "BYTES")
    return made.set_data_from_numpy(images, binary_data=binary)


def test_the_server_and_its_models_say_that_they_are_ready(asking: triton.InferenceServerClient) -> None:
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("tiny")
    assert asking.is_model_ready("tiny", "1")
    assert not asking.is_model_ready("tiny", "2")
    assert not asking.is_model_ready("huge")


def test_a_server_that_still_loads_is_live_and_not_ready(slow_models_dir: Path) -> None:
    with started(slow_models_dir) as client:
        with triton_of(client) as asking:
            assert asking.is_server_live()
            assert not asking.is_server_ready()
            assert not asking.is_model_ready("tiny")
        wait_until_ready(client)


def test_metadata_name_the_server_its_extension_and_the_models_tensors(asking: triton.InferenceServerClient) -> None:
    server = asking.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("oodgate", ["binary_tensor_data"])
    assert asking.get_model_metadata("tiny") == asking.get_model_metadata("tiny", "1")
    assert asking.get_model_metadata("tiny") == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "p_values", "datatype": "FP64", "shape": [-1]},
            {"name": "rejected", "datatype": "BOOL", "shape": [-1]},
        ],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_a_uint8_tensor_is_answered_as_the_graph_and_its_gate_do(
    asking: triton.InferenceServerClient, models_dir: Path, binary_in: bool, binary_out: bool
) -> None:
    images = np.concatenate([pixels(2, 71), np.zeros((1, 8, 8, 3), np.uint8)])
    bundle = load_bundle(models_dir / "tiny/1")
    probabilities, scores = Runtime(bundle, "cpu", 1).run(images)
    names = ("rejected", "p_values", "scores", "probabilities")
    asked = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = asking.infer("tiny", [tensor(images, binary_in)], outputs=asked, request_id="seven")
    assert [output["name"] for output in result.get_response()["outputs"]] == list(names)
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("scores"), scores, atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("p_values"), p_values(bundle.calibration.scores[2], scores[:, 2]))
    assert result.as_numpy("rejected").tolist() == (scores[:, 2] > open_gate(bundle.calibration.scores[2], 0.05, "pac", 0.05).threshold).tolist()
    assert result.as_numpy("rejected")[2]
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", "1", "seven")
    assert response["parameters"] == {"postprocessor": "knn", "alpha": 0.05, "guarantee": "pac"}


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("binary", [True, False])
def test_encoded_pictures_in_a_bytes_tensor_are_answered_as_predict_answers_them(
    asking: triton.InferenceServerClient, client: httpx.Client, shape: tuple[int, ...], binary: bool
) -> None:
    pictures = [id_png(3), ood_png()]
    encoded = np.array([picture if binary else base64.b64encode(picture) for picture in pictures], object).reshape(shape)
    result = asking.infer("tiny", [tensor(encoded, binary)], model_version="1")
    wanted = client.post("/predict", files=[("file", picture) for picture in pictures]).json()["predictions"]
    assert result.as_numpy("rejected").tolist() == [one["ood"]["rejected"] for one in wanted] == [False, True]
    assert result.as_numpy("p_values").tolist() == [one["ood"]["p_value"] for one in wanted]
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [one["class_id"] for one in wanted]


def test_parameters_choose_the_score_and_the_alpha_that_decide(asking: triton.InferenceServerClient, client: httpx.Client) -> None:
    picture = pixels(1, 72)
    result = asking.infer("tiny", [tensor(picture)], parameters={"postprocessor": "msp", "alpha": 0.2}, priority=1, timeout=5_000_000)
    body = client.post("/predict", content=png(picture[0]), params={"postprocessor": "msp", "alpha": 0.2}).json()
    assert result.get_response()["parameters"] == {"postprocessor": "msp", "alpha": 0.2, "guarantee": "pac"}
    assert result.as_numpy("p_values").tolist() == [body["predictions"][0]["ood"]["p_value"]]


def test_numbers_in_json_are_float32s_shortest(client: httpx.Client) -> None:
    asked = {"inputs": [{"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": pixels(1, 73).tolist()}]}
    outputs = client.post(INFER, json=asked).json()["outputs"]
    assert [output["name"] for output in outputs] == ["probabilities", "scores", "p_values", "rejected"]
    assert all(repr(value) == str(np.float32(value)) for value in outputs[0]["data"])


def test_answers_are_counted_and_timed_as_those_of_predict(models_dir: Path) -> None:
    with serving(models_dir, shadow_postprocessors=("msp",)) as client:
        with triton_of(client) as asking:
            asking.infer("tiny", [tensor(np.concatenate([pixels(2, 74), np.zeros((1, 8, 8, 3), np.uint8)]))])
        text = client.get("/metrics").text
    assert 'oodgate_predictions_total{decision="rejected",model="tiny",postprocessor="knn",version="1"} 1.0' in text
    assert 'oodgate_predictions_total{decision="accepted",model="tiny",postprocessor="knn",version="1"} 2.0' in text
    assert 'oodgate_requests_total{route="/v2/models/{model}/infer",status="200"} 1.0' in text
    assert 'oodgate_stage_duration_seconds_count{stage="infer"} 1.0' in text
    assert 'oodgate_shadow_rejected_total{model="tiny",postprocessor="msp"} 1.0' in text


@pytest.mark.parametrize(
    ("model", "version", "sentence"),
    [
        ("huge", "", "huge is not loaded"),
        ("tiny", "2", "tiny version 2 is not loaded; loaded: tiny version 1"),
        ("tiny", "new", "versions are numbers"),
        ("tiny", "9" * 5000, "versions are numbers"),
    ],
)
def test_an_unknown_model_or_version_is_what_the_client_is_told(
    asking: triton.InferenceServerClient, model: str, version: str, sentence: str
) -> None:
    for ask in (
        lambda: asking.get_model_metadata(model, version),
        lambda: asking.infer(model, [tensor(pixels(1, 75))], model_version=version),
    ):
        with pytest.raises(InferenceServerException, match=sentence) as caught:
            ask()
        assert caught.value.status() == "404"


def test_what_is_wrong_with_a_picture_is_what_the_client_is_told(asking: triton.InferenceServerClient) -> None:
    for picture, status, sentence in ((b"none", "415", "image 2 of 2: the 4 bytes are none"), (id_png()[:60], "422", "image 2 of 2: PNG")):
        with pytest.raises(InferenceServerException, match=sentence) as caught:
            asking.infer("tiny", [tensor(np.array([id_png(), picture], object))])
        assert caught.value.status() == status


def test_shared_memory_and_compression_are_refused(asking: triton.InferenceServerClient) -> None:
    shared = triton.InferInput("images", [1, 8, 8, 3], "UINT8")
    shared.set_shared_memory("region", 192)
    with pytest.raises(InferenceServerException, match=r"shared_memory_region: Extra inputs"):
        asking.infer("tiny", [shared])
    with pytest.raises(InferenceServerException, match="content encoding 'gzip' is not accepted"):
        asking.infer("tiny", [tensor(pixels(1, 76))], request_compression_algorithm="gzip")


def images_of(shape: object = (1, 8, 8, 3), datatype: str = "UINT8", **more: object) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "shape": shape, "datatype": datatype, **more}]}


ZEROS = [0] * 192
REFUSED: dict[str, tuple[object, int, str, str]] = {
    "no JSON": ("{", 400, "invalid-tensor", "EOF while parsing"),
    "no input": ({"inputs": []}, 400, "invalid-tensor", "inputs: .*at least 1"),
    "two inputs": ({"inputs": 2 * images_of(data=ZEROS)["inputs"]}, 400, "invalid-tensor", "inputs: .*at most 1"),
    "another input": ({"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8"}]}, 400, "invalid-tensor", "inputs.0.name: .*'images'"),
    "another datatype": (images_of(datatype="FP32", data=ZEROS), 400, "invalid-tensor", "datatype: .*'UINT8' or 'BYTES'"),
    "another output": (images_of(data=ZEROS) | {"outputs": [{"name": "logits"}]}, 400, "invalid-tensor", "outputs.0.name"),
    "an unknown parameter": (images_of(data=ZEROS) | {"parameters": {"apha": 0.1}}, 400, "invalid-tensor", "parameters.apha: Extra"),
    "another size": (images_of([1, 9, 8, 3], data=ZEROS), 400, "invalid-tensor", r"UINT8\[1, 9, 8, 3\], it must be UINT8\[N, 8, 8, 3\]"),
    "planes first": (images_of([1, 3, 8, 8], data=ZEROS), 400, "invalid-tensor", r"it must be UINT8\[N, 8, 8, 3\]"),
    "too few numbers": (images_of(data=ZEROS[1:]), 400, "invalid-tensor", r"191 elements, its shape \[1, 8, 8, 3\] has 192"),
    "no picture": (images_of([0, 8, 8, 3], data=[]), 400, "invalid-tensor", "images is empty"),
    "a ragged tensor": (images_of(data=[[0], [0, 0]]), 400, "invalid-tensor", "ragged"),
    "a number above 255": (images_of(data=[256, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "a number below 0": (images_of(data=[-1, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "a fraction": (images_of(data=[0.5, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "a word": (images_of(data=["a", *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "a vast number": (images_of(data=[10**30, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "no data": (images_of(), 400, "invalid-tensor", "neither data nor binary_data_size"),
    "data twice": (images_of(data=ZEROS, parameters={"binary_data_size": 0}), 400, "invalid-tensor", "both data and binary_data_size"),
    "bytes that are not there": (images_of(parameters={"binary_data_size": 192}), 400, "invalid-tensor", "size 192, but 0 bytes follow"),
    "a square of pictures": (images_of([1, 2], "BYTES", data=["", ""]), 400, "invalid-tensor", r"must be BYTES\[N\] or BYTES\[N, 1\]"),
    "a picture that is no base64": (images_of([1], "BYTES", data=["QU!D"]), 400, "invalid-tensor", "element 1 .* base64"),
    "a picture that is a number": (images_of([1], "BYTES", data=[5]), 400, "invalid-tensor", "element 1 .* base64"),
    "text among numbers": (images_of(data=["a" * 1000, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "truth among numbers": (images_of(data=[True, *ZEROS[1:]]), 400, "invalid-tensor", "whole numbers from 0 to 255"),
    "rows among numbers": (images_of(data=[[0], *ZEROS[1:]]), 400, "invalid-tensor", "ragged"),
    "more values than pictures have": (
        images_of(data=["", *[""] * 2000]),
        400,
        "invalid-tensor",
        "more than 1768 values: images must be",
    ),
    "more pictures than the shape says": (images_of([1], "BYTES", data=["QUJD"] * 2), 400, "invalid-tensor", "more elements than its shape has, 1"),
    "an output for every byte": (images_of(data=ZEROS) | {"outputs": 5 * [{"name": "scores"}]}, 400, "invalid-tensor", "outputs: .*at most 4"),
    "a time-out beyond all time": (images_of(data=ZEROS) | {"parameters": {"timeout": 10**400}}, 400, "invalid-tensor", "parameters.timeout: "),
    "a side beyond all measure": (images_of([10**18]), 400, "invalid-tensor", "inputs.0.shape.0: .*less than"),
    "too few pictures": (images_of([2], "BYTES", data=["QUJD"]), 400, "invalid-tensor", "1 elements, its shape .* has 2"),
    "too many pictures": (images_of([5], "BYTES", data=["QUJD"] * 5), 413, "too-many-images", "5 images, at most 4"),
    "an unknown score": (images_of(data=ZEROS) | {"parameters": {"postprocessor": "vim"}}, 422, "unknown-postprocessor", "msp, ebo, knn"),
    "too large an alpha": (images_of(data=ZEROS) | {"parameters": {"alpha": 0.9}}, 422, "alpha-out-of-range", "0.9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_inferred_is_refused_in_one_sentence(client: httpx.Client, case: str) -> None:
    asked, status, kind, sentence = REFUSED[case]
    response = client.post(INFER, content=asked if isinstance(asked, str) else json.dumps(asked))
    problem = check(response, status, kind, sentence)
    assert problem["error"] == problem["detail"]


def with_bytes(asked: dict[str, Any], binary: bytes) -> tuple[bytes, dict[str, str]]:
    header = json.dumps(asked).encode()
    return header + binary, {HEADER_LENGTH: str(len(header))}


@pytest.mark.parametrize(
    ("shape", "datatype", "declared", "binary", "sentence"),
    [
        ([1, 8, 8, 3], "UINT8", 192, bytes(191), "binary_data_size 192, but 191 bytes follow"),
        ([1, 8, 8, 3], "UINT8", 191, bytes(191), "191 elements, its shape"),
        ([1], "BYTES", 6, struct.pack("<I", 9) + b"ab", "element 1 of the BYTES tensor ends 7 bytes after"),
        ([1], "BYTES", 2, b"ab", "element 1 of the BYTES tensor ends 2 bytes after"),
        ([1], "BYTES", 8, bytes(8), "more elements than its shape has, 1"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(
    client: httpx.Client, shape: list[int], datatype: str, declared: int, binary: bytes, sentence: str
) -> None:
    content, headers = with_bytes(images_of(shape, datatype, parameters={"binary_data_size": declared}), binary)
    check(client.post(INFER, content=content, headers=headers), 400, "invalid-tensor", sentence)


@pytest.mark.parametrize("length", ["0", "-1", "x", "99999999", "²", "9" * 5000])
def test_a_header_length_beyond_the_body_is_refused(client: httpx.Client, length: str) -> None:
    response = client.post(INFER, content=b"{}", headers={HEADER_LENGTH: length.encode("latin-1")})  # type: ignore[dict-item]
    check(response, 400, "invalid-tensor", "it must be between 1 and 2")


def test_bytes_that_nobody_declared_are_refused(client: httpx.Client) -> None:
    content, headers = with_bytes(images_of(data=ZEROS), b"xyz")
    check(client.post(INFER, content=content, headers=headers), 400, "invalid-tensor", "3 bytes follow the JSON, but")


def test_a_large_json_tensor_is_answered(models_dir: Path) -> None:
    images = pixels(200, 77)
    with serving(models_dir, max_images_per_request=256) as client:
        answered = client.post(INFER, json=images_of(images.shape, data=images.ravel().tolist()))
        assert answered.json()["outputs"][0]["shape"] == [200, 3]


def test_problems_outside_v2_have_no_error_member(client: httpx.Client) -> None:
    assert "error" not in check(client.get("/models/huge"), 404, "unknown-model")
    assert "error" in check(client.get("/v2/nothing"), 404, "unknown-route")
    assert "error" in check(client.get(INFER), 405, "method-not-allowed")


def test_a_timeout_of_the_request_is_its_deadline(slow_models_dir: Path) -> None:
    with serving(slow_models_dir, max_batch_size=1) as client, triton_of(client) as asking:
        with pytest.raises(InferenceServerException, match="waited longer than its deadline") as caught:
            asking.infer("tiny", [tensor(pixels(1, 78))], timeout=1)
        assert caught.value.status() == "504"
        asking.infer("tiny", [tensor(pixels(1, 78))])


def test_the_protocol_is_documented(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    infer = paths["/v2/models/{model}/versions/{version}/infer"]["post"]
    assert [parameter["name"] for parameter in infer["parameters"]] == ["model", "version"]
    assert {"application/json", "application/octet-stream"} == set(infer["requestBody"]["content"])
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer"} < set(paths)
