from pathlib import Path

import httpx
import pytest

from service.keys import Keys
from service.settings import Settings, WrongSetting
from tests.bundles import id_png
from tests.servers import check, serving

API, ADMIN = "a-key-for-clients", "a-key-for-operators"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_with_keys_only_probes_metrics_and_documentation_are_open(models_dir: Path) -> None:
    with serving(models_dir, api_keys=API) as client:
        probes = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
        pages = ("/", "/page.css", "/page.js", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js")
        for path in (*probes, *pages):
            assert client.get(path).status_code == 200
        for path in ("/models", "/models/tiny", "/v2", "/v2/models/tiny", "/nothing"):
            check(client.get(path), 401, "missing-key")
        response = client.post("/predict", content=id_png())
        check(response, 401, "missing-key", "a key is needed: Authorization: Bearer <key>, or X-API-Key: <key>")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        check(client.post("/predict", content=id_png(), headers=bearer("wrong")), 401, "missing-key", "the key is not known")
        for headers in (bearer(API), {"X-API-Key": API}, {"Authorization": f"bearer  {API}"}):
            assert client.post("/predict", content=id_png(), headers=headers).status_code == 200
        counted = client.get("/metrics").text
        for route, refused in {"/predict": 2, "/models": 1, "/models/{name}": 1, "/v2": 1, "/v2/models/{model}": 1, "unmatched": 1}.items():
            assert f'requests_total{{route="{route}",status="401"}} {refused}.0\n' in counted


def test_reloading_needs_an_admin_key_and_an_api_key_is_not_one(models_dir: Path) -> None:
    with serving(models_dir, api_keys=API, admin_keys=ADMIN) as client:
        check(client.post("/models/tiny/reload"), 401, "missing-key")
        check(client.post("/models/tiny/reload", headers=bearer(API)), 403, "forbidden", "needs an admin key")
        assert client.post("/models/tiny/reload", headers=bearer(ADMIN)).status_code == 200
        assert client.post("/predict", content=id_png(), headers=bearer(ADMIN)).status_code == 200


def test_without_keys_all_is_open_but_reloading(client: httpx.Client) -> None:
    assert client.get("/models").status_code == 200
    for headers in ({}, bearer("any")):
        check(client.post("/models/tiny/reload", headers=headers), 403, "forbidden", "setting admin_keys names none")


def test_with_an_admin_key_alone_only_reloading_needs_one(models_dir: Path) -> None:
    with serving(models_dir, admin_keys=ADMIN) as client:
        assert client.post("/predict", content=id_png()).status_code == 200
        check(client.post("/models/tiny/reload", headers=bearer("wrong")), 401, "missing-key")


def test_keys_come_from_files_too_and_may_change(models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the shop\n{API}\n\n")
    keys = Keys(Settings(api_keys=("first", "second"), api_keys_file=file))  # type: ignore[arg-type]
    for key in ("first", "second", API):
        keys.check([key.encode()])
    file.write_text("rotated\n")
    keys.read()
    keys.check([b"rotated"])
    with pytest.raises(Exception, match="not known"):
        keys.check([API.encode()])


def test_a_key_may_have_any_letters_wherever_it_is_named(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("voilà\n", "utf-8")
    with serving(models_dir, api_keys="Schlüssel", api_keys_file=tmp_path / "keys") as client:
        for key in ("Schlüssel", "voilà"):
            for headers in ({"X-API-Key": key.encode()}, {"Authorization": b"Bearer " + key.encode()}):
                assert client.get("/models", headers=headers).status_code == 200  # type: ignore[arg-type]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{API}\n", "utf-8-sig")
    Keys(Settings(api_keys_file=tmp_path / "keys")).check([API.encode()])


def test_a_gateway_s_token_may_stand_beside_the_key(models_dir: Path) -> None:
    with serving(models_dir, api_keys=API, admin_keys=ADMIN) as client:
        for headers in (bearer("eyJ.of.a.gateway") | {"X-API-Key": ADMIN}, bearer(ADMIN) | {"X-API-Key": "of-a-gateway"}):
            assert client.get("/models", headers=headers).status_code == 200
            assert client.post("/models/tiny/reload", headers=headers).status_code == 200
        check(client.get("/models", headers=bearer("eyJ.of.a.gateway") | {"X-API-Key": "wrong"}), 401, "missing-key", "the key is not known")


@pytest.mark.parametrize(("content", "sentence"), [(None, "No such file"), (b"# nothing\n\n", "there is no key in it"), (b"\xff\xfe", "not text")])
def test_a_file_without_keys_is_refused_rather_than_open_to_all(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(WrongSetting, match=f"setting admin_keys_file is .*keys': {sentence}"):
        Keys(Settings(admin_keys_file=tmp_path / "keys"))


def test_keys_are_nowhere_to_be_read(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert API not in repr(Settings(api_keys=API))  # type: ignore[arg-type]
    with serving(models_dir, api_keys=API, admin_keys=ADMIN) as client:
        said = [client.post("/predict", content=b"x", headers=bearer(key)).text for key in (API, ADMIN)]
        said += [client.post("/models/none/reload", headers=bearer(key)).text for key in (API, ADMIN)]
        said += [client.get(path, headers=bearer(ADMIN)).text for path in ("/metrics", "/models", "/models/tiny", "/openapi.json")]
    for text in (*said, caplog.text):
        assert API not in text
        assert ADMIN not in text
