"""Every panel's query, asked of a real Prometheus that scrapes a real server under load."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.deploy.tools import DEPLOY, ROOT, documents
from tests.prometheus import ask, firing
from tests.prometheus import prometheus as scraping
from tests.servers import serving

FOLDER = DEPLOY / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "dashboards").glob("*.json")}
PANELS = {f"{name}: {panel['title']}": panel for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"]}
KS = "ood: Distance of the p-values from good traffic's (not sequentially valid)"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus, while the committed model is asked about a good picture, one that is none of its classes, and a broken one."""
    folder = tmp_path_factory.mktemp("prometheus")
    pictures = [(ROOT / "examples" / name).read_bytes() for name in ("cat.png", "street-view-character.png")]
    with (
        serving(ROOT / "models", shadow_postprocessors=("knn",), capture_dir=str(folder / "captured")) as server,
        scraping(folder, server.base_url.port or 0) as client,
    ):
        patience = time.monotonic() + 90
        # Until every panel has something to show, or the tests below say which has not.
        while time.monotonic() < patience:
            for content in (*pictures, pictures[0][:100]):
                answer = server.post("/predict", content=content, headers=PNG)
                server.post("/feedback", json={"request_id": answer.headers["X-Request-ID"], "was_ood": content == pictures[1]})
            if all(ask(client, target["expr"]) for panel in PANELS.values() for target in panel["targets"]):
                break
        yield client


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_a_panel_shows_something(prometheus: httpx.Client, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert ask(prometheus, target["expr"]), target["expr"]


def test_the_rejects_of_a_picture_that_is_no_class_are_seen(prometheus: httpx.Client) -> None:
    [ratio] = ask(prometheus, PANELS["ood: Rejected now"]["targets"][0]["expr"])
    assert float(ratio["value"][1]) == pytest.approx(0.5, abs=0.1)


def test_the_distance_from_good_traffic_is_that_of_the_p_values(prometheus: httpx.Client) -> None:
    """Half of the p-values are the cat's 0.26 and half at most 0.01, where good traffic has one in a hundred: they are 0.7 apart at 0.3."""
    distance, limit = (ask(prometheus, target["expr"]) for target in PANELS[KS]["targets"])
    assert float(distance[0]["value"][1]) == pytest.approx(0.7, abs=0.02)
    assert 0.02 < float(limit[0]["value"][1]) < 0.5


def test_the_alarm_reaches_the_dashboard_and_prometheus_alerts(prometheus: httpx.Client) -> None:
    [alarm] = ask(prometheus, PANELS["ood: Drift alarm"]["targets"][0]["expr"])
    assert float(alarm["value"][1]) == 1
    assert "OodgateOodAlarm" in firing(prometheus)


def test_every_panel_asks_the_provisioned_datasource() -> None:
    [datasource] = next(documents((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text()))["datasources"]
    for panel in PANELS.values():
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {datasource["uid"]}


def test_the_dashboards_lie_where_they_are_looked_for() -> None:
    [provider] = next(documents((FOLDER / "provisioning" / "dashboards" / "oodgate.yml").read_text()))["providers"]
    mounts = next(documents((ROOT / "docker-compose.yml").read_text()))["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert DASHBOARDS.keys() == {"operations", "ood"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_two_panels_lie_on_each_other(name: str) -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARDS[name]["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
