"""Every alert, in both directions: promtool runs the rules over series that are written here, and says which alerts fire."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics
from tests.deploy.tools import DEPLOY, documents, run

FOLDER = DEPLOY / "prometheus"
GROUPS = next(documents((FOLDER / "rules.yml").read_text()))["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
A, B = 'job="oodgate",instance="a"', 'job="oodgate",instance="b"'
SCORE = 'model="m",version="1",postprocessor="knn"'
MODEL = {"job": "oodgate", "model": "m"}
VERSION = MODEL | {"version": "1", "postprocessor": "knn"}
CALIBRATED = {
    f"oodgate_expected_reject_ratio{{{A},{SCORE}}}": "0.0466x200",
    f"oodgate_calibration_images{{{A},{SCORE}}}": "5000x200",
}


def gate(accepted: float, rejected: float) -> dict[str, str]:
    """A calibrated gate that accepts and rejects so many images a minute."""
    counts = {"accepted": accepted, "rejected": rejected}
    return CALIBRATED | {f'oodgate_predictions_total{{{A},{SCORE},decision="{name}"}}': f"0+{count}x200" for name, count in counts.items()}


def stage(seconds: str, name: str) -> dict[str, str]:
    """Durations that all lie in the bucket that ends there, the one after 0.5 s."""
    bounds = {"0.5": 0, seconds: 100, "+Inf": 100}
    return {f'oodgate_stage_duration_seconds_bucket{{{A},stage="{name}",le="{bound}"}}': f"0+{count}x200" for bound, count in bounds.items()}


def requests(status: str, count: float, route: str = "/predict") -> dict[str, str]:
    return {f'oodgate_requests_total{{{A},route="{route}",status="{status}"}}': f"0+{count}x200"}


def shed(reason: str, count: str) -> dict[str, str]:
    return {f'oodgate_shed_total{{{A},reason="{reason}"}}': count}


def served(replica: str, version: int) -> dict[str, str]:
    return {f'oodgate_model_info{{{replica},model="m",version="{version}",sha256="s{version}"}}': "1x200"}


def drift(replica: str, alarm: str, evidence: str) -> dict[str, str]:
    labels = f'{{{replica},model="m"}}'
    return {f"oodgate_drift_alarm{labels}": alarm, f"oodgate_drift_log_e_value{labels}": evidence}


def provider(replica: str, device: str, expected: str = "") -> dict[str, str]:
    wanted = f',expected_device="{expected}"' if expected else ""
    return {f'oodgate_provider_info{{{replica},provider="{device}EP",device="{device}"{wanted}}}': "1x200"}


def captured(result: str, values: str) -> dict[str, str]:
    return {f'oodgate_capture_total{{{A},kind="{kind}",result="{result}"}}': values for kind in ("rejected", "control")}


@dataclass(frozen=True)
class Case:
    """Series, and the labels of every alert of that name that must fire after 100 minutes: none, when it must stay silent."""

    alert: str
    says: str
    series: dict[str, str]
    fires: list[dict[str, str]] = field(default_factory=list)


# Scraped for one minute of three, for as long as a replica lives that cannot load its model.
LOOP = " ".join(["0x1 1x0"] * 70)
UP = {f"up{{{A}}}": "1x200", f"up{{{B}}}": "1x200"}
CASES = [
    Case("OodgateOodAlarm", "the only replica", drift(A, "1x200", "3x200"), [MODEL]),
    Case("OodgateOodAlarm", "all replicas by themselves, at different times", drift(A, "1x200", "3x200") | drift(B, "1x200", "1x200"), [MODEL]),
    Case("OodgateOodAlarm", "one of two, and the mean as well", drift(A, "1x200", "5.4x200") | drift(B, "0x200", "-2x200"), [MODEL]),
    Case("OodgateOodAlarm", "the mean did, long ago", drift(A, "1x200", "5.4x10 3x190") | drift(B, "0x200", "-2x200"), [MODEL]),
    Case("OodgateOodAlarm", "evidence too great for exp()", drift(A, "1x200", "4000x200") | drift(B, "0x200", "-900x200"), [MODEL]),
    Case("OodgateOodAlarm", "one of two, but not the mean", drift(A, "1x200", "5.2x200") | drift(B, "0x200", "-2x200")),
    Case("OodgateOodAlarm", "acknowledged", drift(A, "1x50 0x150", "5.4x50 0x150") | drift(B, "0x200", "-2x200")),
    Case("OodgateOodAlarm", "acknowledged, then one of two", drift(A, "1x50 0x20 1x130", "5.4x50 0x20 4.7x130") | drift(B, "0x200", "-2x200")),
    Case("OodgateOodAlarm", "none", drift(A, "0x200", "0x200")),
    Case("OodgateRejectsAboveAlpha", "10 % of 6000", gate(90, 10), [VERSION]),
    Case("OodgateRejectsAboveAlpha", "alpha itself, of 60000", gate(950, 50)),
    Case("OodgateRejectsAboveAlpha", "a third, but of six images", gate(0.066, 0.033)),
    Case("OodgateRejectsAboveAlpha", "everything", gate(0, 100), [VERSION]),
    Case("OodgateRejectsAboveAlpha", "a version that several processes serve no more", gate(95, 5) | dict.fromkeys(CALIBRATED, "0x200")),
    Case("OodgateRejectsFarBelowAlpha", "none of 6000", gate(100, 0), [VERSION]),
    Case("OodgateRejectsFarBelowAlpha", "none, but of 180 images", gate(3, 0)),
    Case("OodgateRejectsFarBelowAlpha", "3 %, for which traffic may be easy enough", gate(97, 3)),
    Case("OodgateRejectsFarBelowAlpha", "what is expected", gate(95.34, 4.66)),
    Case("OodgateCalibrationOld", "1970", {f"oodgate_calibration_timestamp_seconds{{{A},{SCORE}}}": f"{-181 * 86400}x200"}, [VERSION]),
    Case("OodgateCalibrationOld", "just now", {f"oodgate_calibration_timestamp_seconds{{{A},{SCORE}}}": "60x200"}),
    Case("OodgateCalibrationOld", "not served any more", {f"oodgate_calibration_timestamp_seconds{{{A},{SCORE}}}": "0x200"}),
    Case("OodgateGone", "every scrape fails", {f"up{{{A}}}": "0x200"}, [{}]),
    Case("OodgateGone", "there is nothing to scrape", {'up{job="other"}': "1x200"}, [{}]),
    Case("OodgateGone", "each starts, cannot load, ends and is started again", {f"up{{{A}}}": LOOP, f"up{{{B}}}": LOOP}, [{}]),
    Case("OodgateGone", "one of two answers", UP | {f"up{{{B}}}": "0x200"}),
    Case("OodgateGone", "the only replica is back for two minutes", {f"up{{{A}}}": "1x94 0x2 1x100"}),
    Case("OodgateReplicaDown", "one of two", UP | {f"up{{{B}}}": "0x200"}, [{"job": "oodgate", "instance": "b"}]),
    Case("OodgateReplicaDown", "it starts, cannot load, ends and is started again", UP | {f"up{{{B}}}": LOOP}, [{"job": "oodgate", "instance": "b"}]),
    Case("OodgateReplicaDown", "a minute of it", UP | {f"up{{{B}}}": "1x98 0x1 1x50"}),
    Case("OodgateErrors", "2 %", requests("200", 98) | requests("500", 2), [{"job": "oodgate"}]),
    Case("OodgateErrors", "2 %, among many probes", requests("200", 98) | requests("500", 2) | requests("200", 900, "/readyz"), [{"job": "oodgate"}]),
    Case("OodgateErrors", "refused requests are the clients' own", requests("200", 50) | requests("422", 50)),
    Case("OodgateErrors", "draining is no failure", requests("200", 50) | requests("503", 50)),
    Case("OodgateSlow", "inferences take up to 5 s", stage("5", "infer"), [{"job": "oodgate", "stage": "infer"}]),
    Case("OodgateSlow", "they take at most a second", stage("1", "infer")),
    Case("OodgateSlow", "a client that sends slowly", stage("5", "read")),
    Case(
        "OodgateShedding",
        "full",
        requests("200", 20) | requests("429", 1) | shed("queue_full", "0+1x200"),
        [{"job": "oodgate", "reason": "queue_full"}],
    ),
    Case("OodgateShedding", "once, long ago", requests("200", 20) | shed("queue_full", "0x10 1x190")),
    Case("OodgateShedding", "one of 200, now and then", requests("200", 199) | requests("504", 1) | shed("deadline", "0+1x200")),
    Case("OodgateShedding", "while it loads", requests("200", 20) | shed("not_ready", "0+1x200")),
    Case("OodgateNotReady", "up, but never ready", UP | shed("not_ready", "0+10x200"), [{"job": "oodgate", "instance": "a"}]),
    Case("OodgateNotReady", "five minutes of loading", UP | shed("not_ready", "0x90 0+10x5 50x100")),
    Case(
        "OodgateWrongProvider",
        "CPU where CUDA is expected",
        provider(A, "cpu", "cuda"),
        [{"job": "oodgate", "instance": "a", "provider": "cpuEP", "device": "cpu", "expected_device": "cuda"}],
    ),
    Case("OodgateWrongProvider", "replicas differ", provider(A, "cpu") | provider(B, "cuda"), [{"job": "oodgate"}]),
    Case("OodgateWrongProvider", "as expected", provider(A, "cuda", "cuda") | provider(B, "cuda", "cuda")),
    Case("OodgateWrongProvider", "nothing is expected", provider(A, "cpu") | provider(B, "cpu")),
    Case(
        "OodgateVersionsDiffer",
        "one behind",
        served(A, 1) | served(B, 2),
        [MODEL | {"version": version, "sha256": f"s{version}"} for version in ("1", "2")],
    ),
    Case("OodgateVersionsDiffer", "both serve both", served(A, 1) | served(B, 1) | served(A, 2) | served(B, 2)),
    Case("OodgateVersionsDiffer", "a rollout of ten minutes", served(A, 1) | {key: "_x90 " + value for key, value in served(A, 2).items()}),
    Case("OodgateLoadFailed", "lately", {f'oodgate_model_loads_total{{{A},model="m",result="failed"}}': "0x95 1x100"}, [MODEL]),
    Case("OodgateLoadFailed", "long ago", {f'oodgate_model_loads_total{{{A},model="m",result="failed"}}': "0x10 1x190"}),
    Case("OodgateCaptureFails", "a full disk", captured("failed", "0x95 1+5x100"), [{"job": "oodgate", "instance": "a"}]),
    Case("OodgateCaptureFails", "mended", captured("failed", "0x10 5x190")),
    Case("OodgateCaptureFails", "over a budget", captured("left_out", "0+5x200")),
]


def expected(alert: str, labels: dict[str, str]) -> dict[str, Any]:
    rule = ALERTS[alert]
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], rule["annotations"]["summary"])
    return {"exp_labels": labels | rule["labels"], "exp_annotations": {"summary": summary}}


def scenario(case: Case) -> dict[str, Any]:
    expectation = {"eval_time": "100m", "alertname": case.alert, "exp_alerts": [expected(case.alert, labels) for labels in case.fires]}
    series = [{"series": series, "values": values} for series, values in case.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": [expectation]}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert {bool(case.fires) for case in cases} == {True, False}
    file = tmp_path / "test.yml"
    # One run of promtool for all: it takes longer to start than to evaluate.
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "rules.yml")], "tests": [scenario(case) for case in cases]}))
    run("promtool", "test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_an_entry_in_the_runbook(alert: str) -> None:
    assert f"\n## {alert}\n" in (FOLDER / "RUNBOOK.md").read_text()


def test_the_configuration_is_what_prometheus_reads() -> None:
    run("promtool", "check", "config", FOLDER / "prometheus.yml")


def test_every_series_of_the_rules_is_exported_or_recorded() -> None:
    exported = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    exported |= {family.name + suffix for family in Metrics().registry.collect() for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    rules = [rule for group in GROUPS for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = {name for rule in rules for name in re.findall(r"(?:\w+:)?oodgate_\w+(?::\w+)?", rule["expr"])}
    assert used <= recorded | exported
