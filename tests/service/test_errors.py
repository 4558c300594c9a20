"""Every row of the status table, over a real connection, and that the server answers on afterwards."""

import base64
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.errors import TABLE
from tests.bundles import id_png, png, poison_png
from tests.servers import check, serving, started, wait_until_ready

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def bomb(side: int) -> bytes:
    """A PNG whose header declares a square, and little else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return id_png()[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(99)))


def form(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--b--\r\n"


def images(*pictures: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(picture).decode() for picture in pictures]}).encode()


@pytest.fixture(autouse=True)
def still_answers(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/predict", content=id_png(), headers=PNG).status_code == 200


REFUSED: dict[str, tuple[dict[str, str], bytes, int, str, str]] = {
    "malformed JSON": (JSON, b'{"images": [', 400, "malformed-body", "EOF while parsing"),
    "JSON without images": (JSON, b"{}", 400, "malformed-body", "Field required"),
    "JSON with an unknown key": (JSON, b'{"images": ["QUJD"], "alpha": 1}', 400, "malformed-body", "Extra inputs"),
    "JSON of another shape": (JSON, b'["QUJD"]', 400, "malformed-body", 'must be {"images"'),
    "JSON with no image": (JSON, b'{"images": []}', 400, "malformed-body", "at least 1 item"),
    "JSON with an empty image": (JSON, b'{"images": ["QUJD", ""]}', 400, "malformed-body", "image 2 of 2 is empty"),
    "JSON nested deeply": (JSON, b'{"images":' + b"[" * 50_000, 400, "malformed-body", "recursion|EOF"),
    "JSON that is not UTF-8": (JSON, b'{"images": ["\xff"]}', 400, "malformed-body", ""),
    "bad base64": (JSON, b'{"images": ["QUJD", "QU!D"]}', 400, "malformed-body", "image 2: .*base64"),
    "base64 with an image that is a number": (JSON, b'{"images": [5]}', 400, "malformed-body", "image 1"),
    "an empty body": (PNG, b"", 400, "malformed-body", "empty"),
    "an empty multipart body": (FORM, b"", 400, "malformed-body", "closing boundary"),
    "a multipart body without a file": (FORM, form(('name="note"', b"x")), 400, "malformed-body", "no part named 'file'"),
    "a file under another name": (FORM, form(('name="image"; filename="a.png"', b"x")), 400, "malformed-body", "part 'image' holds a file"),
    "an empty file": (FORM, form(('name="file"; filename="a.png"', b"")), 400, "malformed-body", r"image 1 \(a.png\) is empty"),
    "a truncated multipart body": (FORM, form(('name="file"; filename="a.png"', b"x" * 100))[:-30], 400, "malformed-body", "closing boundary"),
    "a multipart body that is none": (FORM, b"hello", 400, "malformed-body", "malformed"),
    "no boundary": ({"Content-Type": "multipart/form-data"}, b"x", 400, "malformed-body", "boundary"),
    "a boundary too long": ({"Content-Type": "multipart/form-data; boundary=" + "b" * 300}, b"x", 400, "malformed-body", "malformed"),
    "a flood of parts": (FORM, form(*[('name="note"', b"x")] * 200), 400, "malformed-body", "more than 104 parts"),
    "a part with a huge header": (FORM, form(('name="' + "x" * 20_000 + '"', b"x")), 400, "malformed-body", "Maximum header size"),
    "a header with thousands of parameters": (FORM, form(('name="file"' + ";" * 4000, id_png())), 400, "malformed-body", "more than 200 semicolons"),
    "a content type with thousands of parameters": (
        {"Content-Type": "multipart/form-data; boundary=b" + ";" * 10_000},
        b"x",
        400,
        "malformed-body",
        "more than 200 semicolons",
    ),
    "a strip": (PNG, png(np.zeros((4, 804, 3), np.uint8)), 422, "invalid-image", "image has 804x4 pixels, one side may be at most 200 times"),
    "a large body": (PNG, bytes(200_001), 413, "body-too-large", "200001 bytes, at most 200000"),
    "too many parts": (FORM, form(*[('name="file"; filename="a.png"', b"x")] * 5), 413, "too-many-images", "more than 4 images"),
    "too many images in JSON": (JSON, images(*[b"x"] * 5), 413, "too-many-images", "more than 4 images"),
    "a flood of empty images": (JSON, b'{"images": [' + b'"",' * 50_000 + b'""]}', 413, "too-many-images", "more than 4 images"),
    "a bomb": (PNG, bomb(20_000), 413, "too-many-pixels", "at most 10000 are decoded"),
    "a picture somewhat too large": (PNG, bomb(101), 413, "too-many-pixels", "image has 101x101 pixels, at most 10000 are decoded"),
    "text": ({"Content-Type": "text/plain"}, b"hello", 415, "unsupported-content-type", "'text/plain' is not accepted"),
    "a web form": ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 415, "unsupported-content-type", "not accepted"),
    "gzip": (PNG | {"Content-Encoding": "gzip"}, b"\x1f\x8b", 415, "unsupported-encoding", "'gzip' is not accepted"),
    "a PDF": (PNG, b"%PDF-1.7", 415, "unsupported-image-format", "none of the accepted formats"),
    "a truncated picture": (PNG, id_png()[:100], 422, "undecodable-image", ""),
    "a picture cut off in its header": (PNG, id_png()[:20], 422, "undecodable-image", "header"),
    "a corrupt picture": (PNG, id_png()[:60] + b"\0\0\0\0" + id_png()[64:], 422, "undecodable-image", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_body_is_refused(client: httpx.Client, case: str) -> None:
    headers, body, status, kind, detail = REFUSED[case]
    check(client.post("/predict", content=body, headers=headers), status, kind, detail)


@pytest.mark.parametrize(
    ("query", "status", "kind", "detail"),
    [
        ({"model": "cifar10"}, 404, "unknown-model", "cifar10 is not loaded; loaded: tiny version 1"),
        ({"version": 7}, 404, "unknown-model", "tiny version 7 is not loaded; loaded: tiny version 1"),
        ({"postprocessor": "vim"}, 422, "unknown-postprocessor", "no post-processor 'vim', it has msp, ebo, knn"),
        ({"alpha": 0.9}, 422, "alpha-out-of-range", "alpha is 0.9, it must be between 0.001 and 0.5"),
        ({"alpha": "nan"}, 422, "alpha-out-of-range", "nan"),
        ({"alpha": 0.001}, 422, "alpha-not-promised", "needs at least 2995 calibration images, the bundle has 1000"),
        ({"alpha": "small"}, 422, "invalid-parameter", "alpha is 'small'"),
        ([("alpha", 0.1), ("alpha", 0.2)], 422, "invalid-parameter", "a parameter is given twice in 'alpha=0.1&alpha=0.2'"),
        ({"alhpa": 0.1}, 422, "invalid-parameter", "there is no parameter 'alhpa'; there are model, version, postprocessor, alpha, top_k"),
        ({"version": "x"}, 422, "invalid-parameter", "version is 'x'"),
        ({"top_k": 0}, 422, "top-k-out-of-range", "top_k is 0, it must be between 1 and 3"),
        ({"top_k": 4}, 422, "top-k-out-of-range", "top_k is 4"),
    ],
)
def test_a_parameter_is_refused(client: httpx.Client, query: dict[str, str] | list[tuple[str, str]], status: int, kind: str, detail: str) -> None:
    check(client.post("/predict", params=query, content=id_png(), headers=PNG), status, kind, detail)


def test_unknown_routes_are_problems_too(client: httpx.Client) -> None:
    check(client.get("/nothing"), 404, "unknown-route", "there is no /nothing")
    check(client.post("/predict/", content=b""), 404, "unknown-route")
    check(client.get("/models/none"), 404, "unknown-model", "none is not loaded; loaded: tiny version 1")


def test_a_wrong_method_names_the_right_one(client: httpx.Client) -> None:
    response = client.get("/predict")
    check(response, 405, "method-not-allowed", "/predict does not answer GET")
    assert response.headers["Allow"] == "POST"


def test_a_refused_type_comes_with_those_accepted(client: httpx.Client) -> None:
    assert "image/png" in client.post("/predict", content=b"x", headers={"Content-Type": "text/plain"}).headers["Accept-Post"]
    assert client.post("/predict", content=b"x", headers={"Content-Encoding": "br"}).headers["Accept-Encoding"] == "identity"


def test_one_bad_file_among_several_refuses_all_and_is_named(client: httpx.Client) -> None:
    files = [("file", ("good.png", id_png())), ("file", ("bad.png", b"hello")), ("file", ("worse.png", b"hello"))]
    problem = check(client.post("/predict", files=files), 415, "unsupported-image-format", r"image 2 of 3 \(bad.png\)")
    assert (problem["position"], problem["filename"]) == (2, "bad.png")


def test_a_chunked_body_is_counted_while_it_is_read(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20_000_000:
            sent += 10_000
            yield bytes(10_000)

    check(client.post("/predict", content=endless(), headers=PNG), 413, "body-too-large", "more than 200000 bytes")


def test_a_file_part_is_counted_like_any_body(client: httpx.Client) -> None:
    body = form(('name="file"; filename="a.png"', bytes(300_000)))
    check(client.post("/predict", content=iter([body[:150_000], body[150_000:]]), headers=FORM), 413, "body-too-large", "more than 200000")


def test_a_body_that_ends_too_early_disturbs_no_one(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: image/png\r\n\r\nhalf")


def test_a_sane_request_id_is_taken_over_and_any_other_is_not(client: httpx.Client) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "order-7/a"}).headers["X-Request-ID"] == "order-7/a"
    for insane in ("a b", "x" * 200, '"><script>'):
        assert re.fullmatch("[0-9a-f]{32}", client.get("/livez", headers={"X-Request-ID": insane}).headers["X-Request-ID"])


def test_a_failing_inference_is_500_without_a_stack_trace(client: httpx.Client) -> None:
    response = client.post("/predict", content=poison_png(), headers=PNG)
    check(response, 500, "inference-failed")
    assert "Gather" not in response.text
    assert "Traceback" not in response.text


def test_while_loading_predictions_are_503_and_the_process_is_alive(slow_models_dir: Path) -> None:
    with started(slow_models_dir) as client:
        assert client.get("/livez").status_code == 200
        for response in (client.get("/readyz"), client.post("/predict", content=id_png())):
            check(response, 503, "not-ready", "being loaded")
            assert int(response.headers["Retry-After"]) >= 1
        wait_until_ready(client)
        assert client.post("/predict", content=id_png()).status_code == 200


def test_a_full_queue_is_429_and_says_when_to_come_back(slow_models_dir: Path) -> None:
    with serving(slow_models_dir, max_queue_size=2, max_images_per_request=2, max_batch_size=2) as client, ThreadPoolExecutor(12) as threads:
        responses = list(threads.map(lambda _: client.post("/predict", content=id_png(), headers=PNG), range(12)))
        refused = [response for response in responses if response.status_code != 200]
        assert len(refused) in range(1, 12)
        for response in refused:
            check(response, 429, "queue-full", "images are waiting, at most 2 may")
            assert int(response.headers["Retry-After"]) >= 1
        assert client.post("/predict", content=id_png(), headers=PNG).status_code == 200
        assert f'oodgate_shed_total{{reason="queue_full"}} {len(refused)}.0' in client.get("/metrics").text


def test_waiting_beyond_the_deadline_is_504(slow_models_dir: Path) -> None:
    with serving(slow_models_dir, max_batch_size=1, request_deadline_ms=60) as client, ThreadPoolExecutor(3) as threads:
        responses = list(threads.map(lambda _: client.post("/predict", content=id_png(), headers=PNG), range(3)))
        late = [response for response in responses if response.status_code != 200]
        assert len(late) in (1, 2)
        for response in late:
            check(response, 504, "deadline-passed", "deadline")
        assert client.post("/predict", content=id_png(), headers=PNG | {"X-Request-Timeout-Ms": "1e9"}).status_code in (200, 504)


def test_a_client_may_ask_for_a_shorter_deadline_only(slow_models_dir: Path) -> None:
    with serving(slow_models_dir, max_batch_size=1) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/predict", content=id_png(), headers=PNG)
        wait_for(client, "oodgate_stage_duration_seconds_count", "decode", 1)
        check(client.post("/predict", content=id_png(), headers=PNG | {"X-Request-Timeout-Ms": "1"}), 504, "deadline-passed")
        assert first.result().status_code == 200
        for wrong in ("soon", "0", "-5", "nan"):
            check(client.post("/predict", content=id_png(), headers=PNG | {"X-Request-Timeout-Ms": wrong}), 422, "invalid-parameter", "above 0")


def wait_for(client: httpx.Client, series: str, label: str, value: float) -> None:
    patience = time.monotonic() + 20
    while not re.search(rf"^{series}(\{{.*{label}.*\}})? {value:.1f}$", client.get("/metrics").text, re.M):
        assert time.monotonic() < patience, f"{series} did not become {value}"


def send_head(client: httpx.Client, length: int) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20)
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
    return connection


def test_a_client_that_has_gone_is_dropped_before_the_batch(slow_models_dir: Path) -> None:
    picture = id_png()
    with serving(slow_models_dir, max_batch_size=1) as client, ThreadPoolExecutor(2) as threads:
        held_up = [threads.submit(client.post, "/predict", content=picture, headers=PNG) for _ in range(2)]
        wait_for(client, "oodgate_queue_images", "", 1)
        with send_head(client, len(picture)) as connection:
            connection.sendall(picture)
            wait_for(client, "oodgate_stage_duration_seconds_count", "decode", 3)
        assert [request.result().status_code for request in held_up] == [200, 200]
        wait_for(client, "oodgate_queue_images", "", 0)
        assert client.post("/predict", content=picture, headers=PNG).status_code == 200
        assert "oodgate_batch_images_count 3.0" in client.get("/metrics").text


def test_a_body_that_takes_too_long_is_408_and_its_connection_closed(models_dir: Path) -> None:
    with serving(models_dir, body_timeout_ms=100) as client, send_head(client, 1000) as connection:
        connection.sendall(b"slowly")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()
        assert b"the body has not arrived within 100 ms, 6 bytes have" in answer
        assert 'oodgate_shed_total{reason="slow_body"} 1.0' in client.get("/metrics").text


def test_a_body_that_outlasts_the_deadline_is_504(models_dir: Path) -> None:
    with serving(models_dir, request_deadline_ms=100) as client, send_head(client, 1000) as connection:
        connection.sendall(b"slowly")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"connection: close" in answer.lower()
        assert b"the body has not arrived by the request's deadline, 6 bytes have" in answer


def test_bodies_that_are_held_together_share_one_limit(models_dir: Path) -> None:
    with serving(models_dir, max_body_bytes=100_000, max_bodies_bytes=150_000) as client:
        with send_head(client, 100_000) as waiting:
            waiting.sendall(bytes(90_000))
            patience = time.monotonic() + 20
            while (refused := client.post("/predict", content=bytes(90_000))).status_code != 429:
                assert time.monotonic() < patience, "the body that waits is not counted"
            check(refused, 429, "too-many-bytes", "180000 bytes of requests' bodies are being read or answered, at most 150000 may")
            assert int(refused.headers["Retry-After"]) >= 1
            assert client.post("/predict", content=id_png(), headers=PNG).status_code == 200
        # What is counted is counted off again, whether the client stayed or left.
        patience = time.monotonic() + 20
        while client.post("/predict", content=bytes(100_000)).status_code != 415:
            assert time.monotonic() < patience, "the body of the client that has gone is still counted"


def test_every_problem_has_a_name_of_its_own() -> None:
    assert len({kind.name for kind in TABLE.values()}) == len(TABLE)
