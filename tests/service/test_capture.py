"""Pictures kept, through the server where it answers, and by hand where a minute would be too long."""

import base64
import io
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from s3fs import S3FileSystem

from service.__main__ import main
from service.bundle.preprocess import decode
from service.capture import Capture, open_capture
from service.captured import Sidecar
from service.decoder import Upload
from service.metrics import Metrics
from service.model import Model, open_model
from service.settings import Settings, WrongSetting
from service.store import FolderStore, Store, open_store
from service.verdict import Judged, judging
from tests.bundles import id_png, ood_png, pixels, png, write_bundle
from tests.servers import serving
from tests.test_same_pixels import PICTURES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model(models_dir: Path) -> Model:
    return open_model(models_dir / "tiny" / "1", Settings(device="cpu", intra_op_threads=1))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder in an S3 of this machine's."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    reach(monkeypatch, f"http://{host}:{port}")
    # What earlier servers of this process held.
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
    boto3.client("s3").create_bucket(Bucket="pictures")
    yield "s3://pictures/kept"
    S3FileSystem.clear_instance_cache()
    server.stop()


def reach(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    variables = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()


def capturing(where: str | Store, **settings: Any) -> Capture:
    """One whose minutes end when `work` is called."""
    chosen = Settings(**{f"capture_{name}": value for name, value in settings.items()})
    return Capture(open_store(where) if isinstance(where, str) else where, chosen, Metrics())


def offer(capture: Capture, model: Model, *pictures: bytes, request_id: str = "request") -> None:
    """As the server does once it has answered."""
    judged = Judged.of(*judging(model.runtime.run, model.default)(np.stack([decode(picture, model.manifest.input) for picture in pictures])))
    capture.offer(request_id, model, model.default, judged.own, judged, [Upload(picture) for picture in pictures])


def count(capture: Capture, result: str, kind: str = "rejected") -> float:
    found = capture.metrics.registry.get_sample_value("oodgate_capture_total", {"kind": kind, "result": result})
    assert found is not None
    return found


def sidecars(store: Store) -> dict[str, Sidecar]:
    """Name of a picture -> what stands beside it. Each picture has one, and each has its picture."""
    names = store.sizes()
    pictures = sorted(name for name in names if name.endswith(".png"))
    assert sorted(names) == sorted(pictures + [name.replace(".png", ".json") for name in pictures])
    return {name: Sidecar.model_validate_json(store.read(name.replace(".png", ".json"))) for name in pictures}


def kept(folder: Path) -> dict[str, Sidecar]:
    return sidecars(FolderStore(folder))


def test_nothing_is_kept_unless_it_is_asked_for(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(models_dir) as client:
        client.post("/predict", content=ood_png())
        assert "capture" not in [thread.name for thread in threading.enumerate()]
    assert list(tmp_path.iterdir()) == []


def test_what_was_rejected_is_kept_with_what_was_answered(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, capture_dir=str(tmp_path), capture_control_share=0) as client:
        client.post("/predict", content=id_png())
        files = [("file", ("mine.png", picture)) for picture in (id_png(), ood_png())]
        response = client.post("/predict", files=files, params={"alpha": 0.1, "postprocessor": "ebo"}, headers={"X-Request-ID": "a/b:1"})
    answer = response.json()
    prediction = answer["predictions"][1]
    assert prediction["ood"]["rejected"]
    ((name, found),) = kept(tmp_path).items()
    assert name.startswith(f"tiny/{found.time:%Y-%m-%d}/rejected/{found.label}/{found.time:%H%M%S}-")
    assert abs(found.time.timestamp() - time.time()) < 60
    assert (found.request_id, found.position, found.decision, found.why) == ("a/b:1", 2, "rejected", "rejected")
    assert [getattr(found, key) for key in ("model", "version", "postprocessor", "alpha", "guarantee")] == [
        answer[key] for key in ("model", "version", "postprocessor", "alpha", "guarantee")
    ]
    assert [getattr(found, key) for key in ("label", "class_id", "probability")] == [prediction[key] for key in ("label", "class_id", "probability")]
    assert (found.p_value, found.scores["ebo"]) == (prediction["ood"]["p_value"], prediction["ood"]["raw_score"])
    assert list(found.scores) == ["msp", "ebo", "knn"]
    assert "mine" not in (tmp_path / name.replace(".png", ".json")).read_text()


def test_a_share_of_what_was_accepted_is_kept_as_control(model: Model, tmp_path: Path) -> None:
    capture = capturing(str(tmp_path), control_share=0.3, per_minute=1000)
    for _ in range(10):
        offer(capture, model, *[id_png()] * 40)
    capture.work()
    found = kept(tmp_path).values()
    # Four standard errors.
    assert abs(len(found) - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5
    assert {(entry.decision, entry.why) for entry in found} == {("accepted", "control")}
    assert count(capture, "kept", "control") == len(found)


def test_all_that_was_accepted_is_kept_at_a_share_of_one(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, capture_dir=str(tmp_path), capture_control_share=1) as client:
        for picture in (id_png(), ood_png(), id_png(1)):
            client.post("/predict", content=picture)
    assert Counter(entry.why for entry in kept(tmp_path).values()) == {"rejected": 1, "control": 2}


def test_what_was_not_answered_is_not_kept(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, capture_dir=str(tmp_path), capture_control_share=1) as client:
        assert client.post("/predict", files=[("file", ood_png()), ("file", b"no picture")]).status_code == 415
        assert client.post("/predict", content=ood_png(), params={"alpha": 0.9}).status_code == 422
    assert kept(tmp_path) == {}


def test_a_minute_and_a_day_keep_no_more_than_they_may_and_all_is_counted(model: Model, tmp_path: Path) -> None:
    capture = capturing(str(tmp_path), per_minute=5, per_day=8, control_share=0)
    for _ in range(3):
        offer(capture, model, *[ood_png()] * 12)
        capture.work()
    found = kept(tmp_path)
    assert len(found) == 8
    written, left_out = count(capture, "kept"), count(capture, "left_out")
    assert written + left_out == 36
    assert 8 <= written <= 15


def test_no_class_takes_the_day(model: Model, tmp_path: Path) -> None:
    capture = capturing(str(tmp_path), per_class=3, control_share=1, per_minute=1000)
    offer(capture, model, *[png(image) for image in pixels(60, 9)])
    capture.work()
    labels = Counter((entry.why, entry.label) for entry in kept(tmp_path).values())
    assert max(labels.values()) == 3
    assert {label for why, label in labels if why == "control"} == {"red", "green", "blue"}


def grain(seed: int) -> bytes:
    """OOD, and about 12 kB as PNG."""
    return png(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_bytes_are_bounded_whatever_an_earlier_process_wrote(model: Model, tmp_path: Path) -> None:
    for _ in range(3):
        capture = capturing(str(tmp_path), max_bytes=2**16, control_share=0)
        offer(capture, model, *map(grain, range(8)))
        capture.work()
        size = sum(FolderStore(tmp_path).sizes().values())
        assert 2**16 - 14_000 < size <= 2**16
        assert capture.metrics.registry.get_sample_value("oodgate_capture_bytes") == size
    assert len(kept(tmp_path)) == 5


def test_what_is_too_old_goes_an_earlier_processs_too(model: Model, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for ending in ("json", "png"):
        store.write(f"tiny/2020-01-31/rejected/red/120000-{5:016x}.{ending}", b"old")
    store.write("tiny/2020-01-31/rejected/red/.partial-0a1b2c3d", b"half")
    store.write("notes/2020.png", b"mine")
    capture = capturing(store, ttl_days=1.5 / 86400, control_share=0)
    offer(capture, model, ood_png())
    capture.work()
    assert sorted(name.split("/")[0] for name in store.sizes()) == ["notes", "tiny", "tiny"]
    assert not (tmp_path / "tiny" / "2020-01-31").exists()
    time.sleep(2.6)
    capture.work()
    assert list(store.sizes()) == ["notes/2020.png"]


def tensor(rows: np.ndarray[Any, Any], datatype: str, data: list[Any]) -> dict[str, Any]:
    shape = [len(rows)] if datatype == "BYTES" else list(rows.shape)
    return {"id": "mine", "inputs": [{"name": "images", "shape": shape, "datatype": datatype, "data": data}]}


def test_pixels_that_came_as_a_tensor_are_kept_as_well(models_dir: Path, tmp_path: Path) -> None:
    black = np.zeros((2, 8, 8, 3), np.uint8)
    with serving(models_dir, capture_dir=str(tmp_path)) as client:
        response = client.post("/v2/models/tiny/infer", json=tensor(black, "UINT8", black.ravel().tolist()))
    ((first, about), (second, _)) = kept(tmp_path).items()
    assert about.request_id == response.headers["X-Request-ID"]
    for name in (first, second):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), black[0])


def test_encoded_pictures_of_a_tensor_are_kept_as_well(models_dir: Path, tmp_path: Path) -> None:
    encoded = [base64.b64encode(ood_png()).decode()]
    with serving(models_dir, capture_dir=str(tmp_path)) as client:
        assert client.post("/v2/models/tiny/infer", json=tensor(np.zeros(1), "BYTES", encoded)).status_code == 200
    assert len(kept(tmp_path)) == 1


def test_each_model_and_version_is_named_across_a_reload(tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        write_bundle(tmp_path / "models", name=name, images=200)
    with serving(tmp_path / "models", model="tiny", admin_keys=("admin",), capture_dir=str(tmp_path / "kept")) as client:
        client.post("/predict", content=ood_png())
        client.post("/predict", content=ood_png(), params={"model": "other"})
        write_bundle(tmp_path / "models", version=2, images=200)
        client.post("/models/tiny/reload", headers={"X-API-Key": "admin"}).raise_for_status()
        client.post("/predict", content=ood_png())
    found = {(name.split("/")[0], entry.model, entry.version) for name, entry in kept(tmp_path / "kept").items()}
    assert found == {("tiny", "tiny", 1), ("other", "other", 1), ("tiny", "tiny", 2)}


def on_its_side(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif, quality=90)
    return buffer.getvalue()


def test_a_replay_of_what_was_kept_decides_as_the_live_requests_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat = Image.open(ROOT / "examples" / "cat.png").convert("RGB").resize((60, 44))
    upright = io.BytesIO()
    cat.save(upright, "JPEG", quality=90)
    sent = {
        "png": (ROOT / "examples" / "street-view-character.png").read_bytes(),
        "jpeg": upright.getvalue(),
        "on its side": on_its_side(cat),
        "bmp": (PICTURES / "plain.bmp").read_bytes(),
    }
    live = {}
    with serving(ROOT / "models", capture_dir=str(tmp_path), capture_control_share=1) as client:
        for name, picture in sent.items():
            answer = client.post("/predict", content=picture, headers={"X-Request-ID": name.replace(" ", "-")}).json()["predictions"][0]
            live[name.replace(" ", "-")] = (answer["label"], answer["ood"]["rejected"], pytest.approx(answer["ood"]["p_value"], abs=2e-4))
    # The orientation matters to this network, or the test would show nothing.
    assert live["jpeg"] != live["on-its-side"]
    who = {str(tmp_path / name): entry.request_id for name, entry in kept(tmp_path).items()}
    arguments = ["--models-dir", str(ROOT / "models"), "--device", "cpu", "--candidate-alpha", "0.1", "--json", str(tmp_path)]
    assert main(["replay", *arguments]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {who[entry["filename"]]: (entry["now"]["label"], entry["now"]["rejected"], entry["now"]["p_value"]) for entry in entries} == live


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_an_object_store_keeps_what_a_folder_would_and_replay_and_calibrate_read_it(
    tmp_path: Path, place: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    where = request.getfixturevalue("s3") if place == "s3" else f"memory://{tmp_path.name}"
    write_bundle(tmp_path / "models")
    with serving(tmp_path / "models", capture_dir=where, capture_control_share=1, capture_per_minute=100) as client:
        for image in pixels(80, 11):
            client.post("/predict", content=png(image)).raise_for_status()
        client.post("/predict", content=ood_png()).raise_for_status()
    found = sidecars(open_store(where))
    assert len(found) == 81
    about = ["--models-dir", str(tmp_path / "models"), "--device", "cpu"]
    assert main(["replay", *about, "--candidate-alpha", "0.2", "--json", where]) == 0
    replayed = {entry["filename"]: entry["now"]["rejected"] for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert replayed == {f"{where}/{name}": entry.decision == "rejected" for name, entry in found.items()}
    assert main(["calibrate", *about, "--description", "captured", f"{where}/tiny"]) == 0
    assert json.loads((tmp_path / "models" / "tiny" / "2" / "manifest.json").read_text())["calibration"]["n"] == 81


def test_an_object_store_is_kept_within_its_bytes_and_age(model: Model, s3: str) -> None:
    store = open_store(s3)
    for _ in range(2):
        capture = capturing(s3, max_bytes=2**16, control_share=0)
        offer(capture, model, *map(grain, range(8)))
        capture.work()
        assert 2**16 - 14_000 < sum(store.sizes().values()) <= 2**16
    assert len(sidecars(store)) == 5
    time.sleep(2.1)
    capturing(s3, ttl_days=1 / 86400).work()
    assert store.sizes() == {}


def test_a_full_disk_costs_pictures_and_one_line_of_the_log_a_minute_and_nothing_else(
    model: Model, full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (full_disk / "theirs").write_bytes(bytes(60_000))
    capture = capturing(str(full_disk), control_share=0)
    for _ in range(3):
        offer(capture, model, *[ood_png()] * 10)
        capture.work()
    failed = count(capture, "failed")
    assert failed + count(capture, "kept") == 30
    assert failed >= 28
    (line,) = [record for record in caplog.records if record.name == "service.capture"]
    assert (line.levelname, line.getMessage()) == ("ERROR", f"capture: {failed - 20:.0f} pictures were lost: No space left on device")
    (full_disk / "theirs").unlink()
    offer(capture, model, ood_png())
    capture.work()
    assert count(capture, "failed") == failed


def test_a_server_whose_disk_is_full_answers_on_and_stops(models_dir: Path, full_disk: Path) -> None:
    (full_disk / "theirs").write_bytes(bytes(65_536))
    with serving(models_dir, capture_dir=str(full_disk / "kept")) as client:
        for _ in range(20):
            assert client.post("/predict", content=ood_png()).status_code == 200
    assert [path.name for path in full_disk.rglob("*") if path.is_file()] == ["theirs"]


def test_a_store_that_nobody_answers_for_delays_neither_requests_nor_for_long_the_stop(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    reach(monkeypatch, "http://127.0.0.1:9")
    with serving(models_dir, capture_dir="s3://pictures/kept") as client:
        begun = time.monotonic()
        for _ in range(50):
            assert client.post("/predict", content=ood_png()).status_code == 200
        assert time.monotonic() - begun < 5
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 8
    assert main(["replay", "--models-dir", str(models_dir), "--candidate-alpha", "0.1", "s3://pictures/kept"]) == 1
    assert "s3://pictures/kept cannot be listed: EndpointConnectionError: Could not connect" in capsys.readouterr().err
    lines = [record.getMessage() for record in caplog.records if record.name == "service.capture"]
    assert 1 <= len(lines) <= 2
    S3FileSystem.clear_instance_cache()


class Slow:
    """A store that takes half a second for a file."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.read, self.sizes, self.remove = store.read, store.sizes, store.remove

    def write(self, name: str, data: bytes) -> None:
        time.sleep(0.5)
        self.store.write(name, data)


def test_while_a_slow_store_works_no_more_waits_than_a_minute_may_keep(model: Model, tmp_path: Path) -> None:
    capture = capturing(Slow(FolderStore(tmp_path)), per_minute=2, control_share=0)
    offer(capture, model, *[ood_png()] * 10)
    working = threading.Thread(target=capture.work)
    working.start()
    begun = time.monotonic()
    for _ in range(20):
        offer(capture, model, *[ood_png()] * 10)
    assert time.monotonic() - begun < 1
    assert working.is_alive()
    working.join()
    assert [len(window.items()) for window in capture.windows.values()] == [2]
    assert count(capture, "kept") == 2


def test_what_waits_is_given_up_when_the_stop_takes_too_long(model: Model, tmp_path: Path) -> None:
    capture = capturing(store := FolderStore(tmp_path), control_share=0)

    class Last:
        """A store after whose fourth file, the second picture's, the time to stop is over."""

        read, sizes, remove = store.read, store.sizes, store.remove
        written = 0

        def write(self, name: str, data: bytes) -> None:
            store.write(name, data)
            self.written += 1
            if self.written == 4:
                capture.give_up_at = time.monotonic() - 1

    capture.store = Last()
    offer(capture, model, *[ood_png()] * 10)
    capture.work()
    assert (count(capture, "kept"), count(capture, "failed")) == (2, 8)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("where", ["file", "file/below", "pigeon://roof"])
def test_a_place_that_can_never_be_written_is_refused_at_the_start(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    chosen = where if "://" in where else str(tmp_path / where)
    with pytest.raises(WrongSetting, match=r"setting capture_dir is '.*': (File exists|Not a directory|pigeon://roof cannot be opened)"):
        open_capture(Settings(capture_dir=chosen), Metrics())


def test_the_log_tells_nothing_of_pictures_or_who_sent_them(models_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "service.capture")
    with serving(models_dir, capture_dir=str(tmp_path), capture_control_share=1) as client:
        client.post("/predict", files=[("file", ("private.png", ood_png())), ("file", id_png())])
    assert len(kept(tmp_path)) == 2
    assert [record for record in caplog.records if record.name == "service.capture"] == []
