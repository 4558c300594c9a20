from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from service.histogram import PValues
from tests.bundles import id_png, ood_png
from tests.servers import serving

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: httpx.Client) -> Series:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def value(series: Series, name: str, **labels: str) -> float:
    return series[f"oodgate_{name}", frozenset(labels.items())]


def test_what_was_answered_is_counted_by_decision_class_and_p_value(models_dir: Path) -> None:
    with serving(models_dir, shadow_postprocessors=("msp", "ebo"), alpha=0.03) as client:
        label = client.post("/predict", content=id_png()).json()["predictions"][0]["label"]
        client.post("/predict", files=[("file", ood_png()), ("file", ood_png())])
        series = scrape(client)
    who = {"model": "tiny", "version": "1", "postprocessor": "knn"}
    assert value(series, "predictions_total", decision="accepted", **who) == 1
    assert value(series, "predictions_total", decision="rejected", **who) == 2
    assert value(series, "class_predictions_total", model="tiny", decision="accepted", **{"class": label}) == 1
    assert value(series, "ood_p_value_count", **who) == 3
    assert value(series, "ood_p_value_bucket", le="0.001", **who) == 2
    assert value(series, "ood_p_value_bucket", le="0.03", **who) == 2, "the active alpha is a boundary"
    assert value(series, "ood_p_value_bucket", le="1.0", **who) == value(series, "ood_p_value_bucket", le="+Inf", **who) == 3
    assert value(series, "shadow_rejected_total", model="tiny", postprocessor="msp") == 2
    assert value(series, "shadow_rejected_total", model="tiny", postprocessor="ebo") == 2
    assert value(series, "batch_images_sum") == 3
    assert value(series, "queue_images") == 0
    for stage in ("read", "decode", "queue", "infer", "encode"):
        assert value(series, "stage_duration_seconds_count", stage=stage) == 2


def test_what_is_loaded_is_described_before_anything_is_answered(models_dir: Path) -> None:
    with serving(models_dir) as client:
        series = scrape(client)
    who = {"model": "tiny", "version": "1", "postprocessor": "knn"}
    assert value(series, "calibration_images", **who) == 1000
    assert value(series, "calibration_timestamp_seconds", **who) == 1_700_000_000
    assert 0.03 < value(series, "expected_reject_ratio", **who) <= 0.05
    assert value(series, "predictions_total", decision="rejected", **who) == 0
    assert value(series, "provider_info", provider="CPUExecutionProvider", device="cpu") == 1
    assert value(series, "model_loads_total", model="tiny", result="loaded") == 1
    # A series that began with its first failure would show no increase, and nobody would be told of it.
    assert value(series, "model_loads_total", model="tiny", result="failed") == 0
    assert value(series, "shed_total", reason="queue_full") == 0
    assert any(name == "oodgate_model_info" for name, _ in series)


def test_the_process_itself_is_described(models_dir: Path) -> None:
    with serving(models_dir) as client:
        series = scrape(client)
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
        assert series[f"process_{name}", frozenset()] > 0


def test_requests_are_counted_by_template_and_strangers_paths_under_one_label(models_dir: Path) -> None:
    with serving(models_dir) as client:
        for path in ("/docs", "/models/tiny", "/models/other", "/a", "/b"):
            client.get(path)
        client.get("/predict")
        series = scrape(client)
    assert value(series, "requests_total", route="/models/{name}", status="200") == 1
    assert value(series, "requests_total", route="/models/{name}", status="404") == 1
    assert value(series, "requests_total", route="/docs", status="200") == 1
    assert value(series, "requests_total", route="unmatched", status="404") == 2
    assert value(series, "requests_total", route="/predict", status="405") == 1


def test_images_that_could_not_be_answered_are_counted_by_reason(models_dir: Path) -> None:
    with serving(models_dir, max_image_pixels=64) as client:
        for picture in (b"hello", b"hello", id_png()[:60]):
            client.post("/predict", content=picture)
        series = scrape(client)
    assert value(series, "invalid_images_total", reason="format") == 2
    assert value(series, "invalid_images_total", reason="undecodable") == 1


def test_a_bucket_holds_the_values_at_most_its_bound() -> None:
    histogram = PValues()
    histogram.add(("m", "1", "knn"), 0.05)
    histogram.observe(("m", "1", "knn"), np.array([0.05, 0.0500001, 1.0]))
    (family,) = histogram.collect()
    counts = {sample.labels["le"]: sample.value for sample in family.samples if "le" in sample.labels}
    assert (counts["0.05"], counts["0.1"], counts["+Inf"]) == (1, 2, 3)
