"""Two servers on one machine, scraped as one."""

import math
import signal
from pathlib import Path

import httpx

from tests.bundles import id_png, ood_png, write_bundle
from tests.processes import process, wait_until_ready
from tests.service.test_metrics import Series, scrape, value

COMMAND = ("-m", "service", "serve", "--port", "0", "--device", "cpu", "--intra-op-threads", "1", "--models-dir")


def by_process(series: Series, name: str) -> list[float]:
    """A gauge that every process has for itself."""
    return sorted(found for (full, labels), found in series.items() if full == f"oodgate_{name}" and "pid" in dict(labels))


def test_the_metrics_of_one_are_those_of_all_and_what_ends_leaves_its_counts(models_dir: Path, tmp_path: Path) -> None:
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with (
        process(*COMMAND, str(models_dir), "--shadow-postprocessors", "msp", **shared) as (first, one),
        process(*COMMAND, str(models_dir), "--shadow-postprocessors", "msp", **shared) as (_, other),
    ):
        for address in (one, other):
            wait_until_ready(address)
        for seed in range(5):
            httpx.post(f"{one}/predict", content=id_png(seed))
        for _ in range(8):
            httpx.post(f"{other}/predict", content=ood_png())
        httpx.get(f"{other}/metrics")
        with httpx.Client(base_url=one) as client:
            series = scrape(client)
        who = {"model": "tiny", "version": "1", "postprocessor": "knn"}
        assert value(series, "predictions_total", decision="rejected", **who) == 8
        assert value(series, "predictions_total", decision="accepted", **who) == 5
        assert value(series, "ood_p_value_count", **who) == 13
        assert value(series, "shadow_rejected_total", model="tiny", postprocessor="msp") == 8
        # A promise is the same in all processes, and must not be added up.
        assert value(series, "calibration_images", **who) == 1000
        assert value(series, "ood_p_value_reference_ratio", model="tiny", version="1", le="1.0") == 1
        quiet, loud = by_process(series, "drift_log_e_value")
        assert quiet < 1 < math.log(100) < loud
        assert by_process(series, "drift_alarm") == [0, 1]
        first.send_signal(signal.SIGTERM)
        first.wait(30)
        with httpx.Client(base_url=other) as client:
            series = scrape(client)
    assert value(series, "predictions_total", decision="accepted", **who) == 5
    assert by_process(series, "drift_alarm") == [1]


def test_a_version_that_is_not_served_any_more_is_no_longer_described(tmp_path: Path) -> None:
    """Not in the files that others read either, from which nothing can be taken."""
    write_bundle(tmp_path / "models", images=200)
    command = (*COMMAND, str(tmp_path / "models"), "--admin-keys", "admin")
    with process(*command, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics")) as (_, address), httpx.Client(base_url=address) as client:
        wait_until_ready(address)
        write_bundle(tmp_path / "models", version=2, images=200)
        client.post("/models/tiny/reload", headers={"X-API-Key": "admin"}).raise_for_status()
        series = scrape(client)
    served = {dict(labels)["version"]: found for (name, labels), found in series.items() if name == "oodgate_model_info"}
    assert served == {"1": 0, "2": 1}
