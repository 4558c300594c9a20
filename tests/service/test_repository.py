"""Several models and versions, and how one takes another's place while both work."""

import asyncio
import gc
import shutil
import threading
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from service.metrics import Metrics
from service.model import Model
from service.repository import ReloadFailed, Repository, UnknownModel
from service.settings import Settings
from service.states import States
from tests.bundles import graph, id_png, write_bundle
from tests.servers import check, serving

ADMIN = {"Authorization": "Bearer operator"}


def reload(client: httpx.Client, name: str = "tiny") -> httpx.Response:
    return client.post(f"/models/{name}/reload", headers=ADMIN)


def version_of(client: httpx.Client) -> int:
    return int(client.post("/predict", content=id_png()).json()["version"])


def test_a_new_version_takes_over_and_no_request_fails(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    seen: list[tuple[int, int]] = []
    stop = threading.Event()

    def ask(client: httpx.Client) -> None:
        while not stop.is_set():
            response = client.post("/predict", content=id_png())
            seen.append((response.status_code, response.json().get("version", 0)))

    with serving(tmp_path, admin_keys="operator") as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for version in (2, 3, 4):
                write_bundle(tmp_path, version=version, images=100)
                answer = reload(client)
                assert (answer.status_code, answer.json()["version"]) == (200, version)
                assert version_of(client) == version, "who asks after the swap gets the new one"
            patience = time.monotonic() + 20
            while (200, 4) not in seen:
                assert time.monotonic() < patience
                time.sleep(0.01)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert {status for status, _ in seen} == {200}
        assert {version for _, version in seen} >= {1, 4}
        metrics = client.get("/metrics").text
        assert 'oodgate_model_loads_total{model="tiny",result="loaded"} 4.0' in metrics
        assert [line.split('version="')[1][0] for line in metrics.splitlines() if line.startswith("oodgate_model_info{")] == ["4"]


def test_a_bad_version_leaves_the_old_one_serving_and_says_why(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, admin_keys="operator") as client:
        write_bundle(tmp_path, version=2, images=100, model=b"no graph")
        check(reload(client), 409, "reload-failed", r"2: model.onnx cannot be opened: .*; version 1 serves on")
        assert version_of(client) == 1
        shutil.rmtree(tmp_path / "tiny/2")
        (write_bundle(tmp_path, version=2, images=100) / "golden.npz").write_bytes(b"cut off")
        check(reload(client), 409, "reload-failed", "golden.npz has sha256 .*; version 1 serves on")
        assert client.get("/readyz").status_code == 200
        assert 'oodgate_model_loads_total{model="tiny",result="failed"} 2.0' in client.get("/metrics").text
        shutil.rmtree(tmp_path / "tiny")
        check(reload(client), 409, "reload-failed", "has no complete bundle of tiny any more; version 1 serves on")
        assert version_of(client) == 1


def test_a_version_that_is_worse_than_promised_is_refused_by_its_golden_answers(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, admin_keys="operator") as client:
        other = graph()
        head = next(tensor for tensor in other.graph.initializer if tensor.name == "scale")
        head.raw_data = b"\0\0\0\x43"  # 128 instead of 255
        golden = (tmp_path / "tiny/1/golden.npz").read_bytes()
        write_bundle(tmp_path, version=2, images=100, model=other.SerializeToString(), golden=golden)
        check(reload(client), 409, "reload-failed", "of the golden images are off by .*; version 1 serves on")
        assert version_of(client) == 1


def test_a_model_that_appears_can_be_loaded_and_one_that_does_not_exist_is_404(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, admin_keys="operator") as client:
        check(reload(client, "other"), 404, "unknown-model", "models_dir has no complete bundle of other")
        write_bundle(tmp_path, "other", images=100)
        assert reload(client, "other").json()["name"] == "other"
        assert client.post("/predict", content=id_png(), params={"model": "other"}).status_code == 200
        assert client.post("/predict", content=id_png()).json()["model"] == "tiny"


def test_several_versions_answer_side_by_side(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        write_bundle(tmp_path, version=version, images=100)
    with serving(tmp_path, loaded_versions=2, admin_keys="operator") as client:
        assert [model["version"] for model in client.get("/models").json()["models"]] == [2, 3]
        assert version_of(client) == 3
        assert client.post("/predict", content=id_png(), params={"version": 2}).json()["version"] == 2
        assert client.post("/predict", content=id_png(), params={"version": 1}).status_code == 404
        assert client.get("/models/tiny", params={"version": 2}).json()["default"] is False
        write_bundle(tmp_path, version=4, images=100)
        assert reload(client).json()["version"] == 4
        assert client.post("/predict", content=id_png(), params={"version": 3}).json()["version"] == 3
        assert client.post("/predict", content=id_png(), params={"version": 2}).status_code == 404


def test_who_watches_serves_what_appears_and_tries_what_is_bad_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.repository.WATCH_SECONDS", 0.02)
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, watch=True) as client:
        write_bundle(tmp_path, version=2, images=100, model=b"no graph")
        wait_until(lambda: 'result="failed"} 1.0' in client.get("/metrics").text)
        time.sleep(0.2)
        assert 'result="failed"} 1.0' in client.get("/metrics").text
        assert version_of(client) == 1
        write_bundle(tmp_path, version=3, images=100)
        wait_until(lambda: version_of(client) == 3)


def test_who_watches_tries_a_version_again_once_another_of_its_files_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.repository.WATCH_SECONDS", 0.02)
    write_bundle(tmp_path, images=100)
    with serving(tmp_path, watch=True) as client:
        coming = write_bundle(tmp_path / "elsewhere", version=2, images=100)
        aside = (coming / "model.onnx").rename(tmp_path / "model.onnx")
        coming.rename(tmp_path / "tiny/2")
        wait_until(lambda: 'result="failed"} 1.0' in client.get("/metrics").text)
        aside.rename(tmp_path / "tiny/2/model.onnx")
        wait_until(lambda: version_of(client) == 2)


def test_who_watches_leaves_alone_what_is_still_being_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, looks = asyncio.sleep, 0.0625
    monkeypatch.setattr("service.repository.WATCH_SECONDS", looks)
    write_bundle(tmp_path, images=100)

    async def test() -> None:
        metrics = Metrics()
        async with Repository(Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1), metrics, States(None)) as repository:
            await repository.load()
            coming = write_bundle(tmp_path, version=2, images=100) / "model.onnx"
            whole, size = coming.read_bytes(), 0
            coming.write_bytes(b"")

            async def copy_on(seconds: float) -> None:
                """Before each look the file has grown."""
                nonlocal size
                if seconds == looks and size < len(whole):
                    size += len(whole) // 5 + 1
                    coming.write_bytes(whole[:size])
                await sleep(0)

            monkeypatch.setattr(asyncio, "sleep", copy_on)
            watching = asyncio.create_task(repository.watch())
            while repository.find().version != 2:
                await sleep(0.01)
            watching.cancel()
            assert not loads(metrics, "failed")

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_lower_version_that_was_edited_is_loaded_anew_too_and_one_that_was_not_stays(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1, loaded_versions=3)
        async with Repository(settings, Metrics(), States(None)) as repository:
            await repository.load()
            before = {model.version: model for model in repository.loaded()}
            manifest = tmp_path / "tiny/1/manifest.json"
            edited = manifest.read_text().replace('"data":"noise"', '"data":"edited"')
            manifest.write_text("{")
            with pytest.raises(ReloadFailed):
                await repository.reload("tiny")
            manifest.write_text(edited)
            await repository.reload("tiny")
            after = {model.version: model for model in repository.loaded()}
            assert after[1].manifest.calibration.data == "edited"
            assert [after[version] is before[version] for version in (1, 2, 3)] == [False, True, False]

    for version in (1, 2, 3):
        write_bundle(tmp_path, version=version, images=100)
    asyncio.run(test())


def loads(metrics: Metrics, result: str) -> float | None:
    return metrics.registry.get_sample_value("oodgate_model_loads_total", {"model": "tiny", "result": result})


def test_reloading_all_says_of_each_model_that_has_vanished_that_it_was_not_reloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        metrics = Metrics()
        async with Repository(Settings(models_dir=tmp_path / "models", device="cpu", intra_op_threads=1), metrics, States(None)) as repository:
            await repository.load()
            (tmp_path / "models").rename(tmp_path / "gone")
            await repository.reload_all()
            assert repository.find().version == 1
            assert loads(metrics, "failed") == 1
            with pytest.raises(ReloadFailed):
                await repository.reload("tiny")
            assert loads(metrics, "failed") == 2

    write_bundle(tmp_path / "models", images=100)
    asyncio.run(test())
    assert "tiny was not reloaded, version 1 serves on: models_dir" in caplog.text


def test_of_many_calls_to_reload_all_one_runs_and_one_waits(tmp_path: Path) -> None:
    async def test() -> None:
        metrics = Metrics()
        async with Repository(Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1), metrics, States(None)) as repository:
            await repository.load()
            first = asyncio.create_task(repository.reload_all())
            await asyncio.sleep(0)
            write_bundle(tmp_path, version=2, images=100)
            await asyncio.gather(first, *(repository.reload_all() for _ in range(9)))
            assert repository.find().version == 2
            assert loads(metrics, "loaded") == 3

    write_bundle(tmp_path, images=100)
    asyncio.run(test())


def test_a_model_beside_which_the_next_start_would_be_refused_is_served_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(model: str | None, other: str) -> list[str]:
        settings = Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1, model=model)
        async with Repository(settings, Metrics(), States(None)) as repository:
            await repository.load()
            write_bundle(tmp_path, other, images=100)
            caplog.clear()
            await repository.reload_all()
            await repository.reload_all()
            assert repository.find(other).version == 1
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    write_bundle(tmp_path, images=100)
    (warning,) = asyncio.run(test(None, "other"))
    assert "holds other, tiny: setting model must name the default one; give --model NAME or set OODGATE_MODEL" in warning
    assert asyncio.run(test("tiny", "third")) == []


def wait_until(holds: object) -> None:
    patience = time.monotonic() + 20
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < patience
        time.sleep(0.02)


def test_a_version_is_closed_when_its_last_request_ends_and_leaves_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Model | None] = []

    async def test() -> None:
        async with Repository(Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1), Metrics(), States(None)) as repository:
            await repository.load()
            with repository.find() as held:
                old: weakref.ref[Model] = weakref.ref(held)
                monkeypatch.setattr("service.repository.give_back", lambda: left.append(old()))
                await repository.reload("tiny")
                assert repository.find() is not held
                await asyncio.sleep(0.1)
                assert held.batcher.alive, "somebody still uses it"
            batcher = held.batcher
            del held
            await asyncio.gather(*repository.retiring)
            assert not batcher.alive
            assert left == [None], "nothing but the garbage collector would free it, or memory is given back too soon"

    write_bundle(tmp_path, images=100)
    gc.disable()
    try:
        asyncio.run(test())
    finally:
        gc.enable()


def test_a_reload_that_fails_half_way_keeps_all_as_it_was(tmp_path: Path) -> None:
    async def test() -> None:
        async with Repository(
            Settings(models_dir=tmp_path, device="cpu", intra_op_threads=1, loaded_versions=2), Metrics(), States(None)
        ) as repository:
            await repository.load()
            before = repository.loaded()
            write_bundle(tmp_path, version=3, images=100)
            write_bundle(tmp_path, version=4, images=100, model=b"no graph")
            with pytest.raises(ReloadFailed, match="version 2 serves on"):
                await repository.reload("tiny")
            assert repository.loaded() == before
            assert repository.retiring == set()
            with pytest.raises(UnknownModel):
                await repository.reload("none")

    for version in (1, 2):
        write_bundle(tmp_path, version=version, images=100)
    asyncio.run(test())


def test_every_version_is_opened_in_the_same_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    write_bundle(tmp_path)
    with serving(tmp_path, admin_keys="operator") as client:
        for _ in range(3):
            assert reload(client).status_code == 200
        assert [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("open")] == ["open_0"]


def test_evidence_that_could_not_be_written_is_written_as_soon_as_it_can(tmp_path: Path, full_disk: Path) -> None:
    write_bundle(tmp_path / "models")
    filler = full_disk / "filler"

    async def run() -> None:
        settings = Settings(models_dir=tmp_path / "models", device="cpu", intra_op_threads=1)
        async with Repository(settings, Metrics(), states) as repository:
            await repository.load()
            with suppress(OSError), filler.open("wb", 0) as file:
                while True:
                    file.write(bytes(4096))
            repository.find().watch.observe([0.5], [False])
            await repository.save(repository.loaded())
            assert states.failure
            filler.unlink()
            await repository.save(repository.loaded())

    with closing(States(full_disk)) as states:
        asyncio.run(run())
    assert [file.suffix for file in full_disk.iterdir() if "tiny" in file.name] == [".json"]
