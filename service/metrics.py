"""Every Prometheus series, on a registry of its own, with the children of hot series looked up once."""

import threading
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.model import Choice, Model, Verdict

P_VALUE_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STAGE_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGES = ("read", "decode", "queue", "infer", "encode")
MAX_CLASSES = 1000


class PValues(Collector):
    """A histogram whose buckets differ by child: the active alpha is always among them. Counts whole arrays at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.children: dict[tuple[str, str, str], tuple[NDArray[np.float64], NDArray[np.int64], list[float]]] = {}

    def add(self, labels: tuple[str, str, str], alpha: float) -> None:
        bounds = np.array(sorted({*P_VALUE_BOUNDS, alpha}))
        with self.lock:
            self.children.setdefault(labels, (bounds, np.zeros(len(bounds), np.int64), [0.0]))

    def observe(self, labels: tuple[str, str, str], values: NDArray[np.float64]) -> None:
        bounds, counts, total = self.children[labels]
        with self.lock:
            # side="left": a bucket holds the values at most its bound. p-values are at most 1, the last bound.
            np.add.at(counts, np.searchsorted(bounds, values, side="left"), 1)
            total[0] += float(values.sum())

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily("oodgate_ood_p_value", "p-values of the answered images", labels=("model", "version", "postprocessor"))
        with self.lock:
            for labels, (bounds, counts, total) in self.children.items():
                below = np.cumsum(counts).tolist()
                buckets = [(repr(bound), count) for bound, count in zip(bounds.tolist(), below, strict=True)]
                family.add_metric(labels, [*buckets, ("+Inf", below[-1])], total[0])
        yield family


class Metrics:
    """Made once per application. Names and labels are what dashboards and alert rules rely on."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("oodgate_requests_total", "Requests answered", ("route", "status"), registry=registry)
        self.predictions = Counter(
            "oodgate_predictions_total", "Images answered", ("model", "version", "postprocessor", "decision"), registry=registry
        )
        self.class_predictions = Counter(
            "oodgate_class_predictions_total", "Images answered, by predicted class", ("model", "class", "decision"), registry=registry
        )
        self.shadow_rejected = Counter(
            "oodgate_shadow_rejected_total", "Images that a shadow post-processor would have rejected", ("model", "postprocessor"), registry=registry
        )
        by_score = ("model", "version", "postprocessor")
        self.expected_reject_ratio = Gauge(
            "oodgate_expected_reject_ratio", "Share of ID images that the default gate rejects on average", by_score, registry=registry
        )
        self.calibration_images = Gauge("oodgate_calibration_images", "Images that the thresholds rest on", by_score, registry=registry)
        self.calibration_timestamp = Gauge("oodgate_calibration_timestamp_seconds", "When the model was calibrated", by_score, registry=registry)
        self.stage_duration = Histogram(
            "oodgate_stage_duration_seconds", "Where a prediction's time went", ("stage",), buckets=STAGE_BOUNDS, registry=registry
        )
        self.batch_images = Histogram("oodgate_batch_images", "Images per inference", buckets=BATCH_BOUNDS, registry=registry)
        self.queue_images = Gauge("oodgate_queue_images", "Images that wait, being decoded or for their turn", registry=registry)
        self.shed = Counter("oodgate_shed_total", "Requests turned away", ("reason",), registry=registry)
        self.invalid_images = Counter("oodgate_invalid_images_total", "Images that could not be answered", ("reason",), registry=registry)
        self.model_info = Gauge("oodgate_model_info", "1 for every loaded model", ("model", "version", "sha256"), registry=registry)
        self.provider_info = Gauge("oodgate_provider_info", "1 for what onnxruntime really runs on", ("provider", "device"), registry=registry)
        self.model_loads = Counter("oodgate_model_loads_total", "Attempts to load a model", ("model", "result"), registry=registry)
        self.p_values = PValues()
        registry.register(self.p_values)
        # Looking a child up by its labels costs more than counting.
        self.request = cache(self.requests.labels)
        self.prediction = cache(self.predictions.labels)
        self.class_prediction = cache(self.class_predictions.labels)
        self.stage = {stage: self.stage_duration.labels(stage) for stage in STAGES}
        for reason in ("queue_full", "deadline", "not_ready", "slow_body"):
            self.shed.labels(reason)

    def forget(self, model: Model) -> None:
        """What no longer holds once a model is not served; what was counted stays."""
        self.model_info.remove(model.name, str(model.version), model.manifest.sha256["model.onnx"])
        for choice in described(model):
            for gauge in (self.expected_reject_ratio, self.calibration_images, self.calibration_timestamp):
                gauge.remove(model.name, str(model.version), choice.postprocessor)

    def describe(self, model: Model) -> None:
        """What is known of a model before it answers anything, so that rates start from zero."""
        manifest = model.manifest
        self.model_info.labels(model.name, str(model.version), manifest.sha256["model.onnx"]).set(1)
        self.provider_info.labels(model.runtime.provider, model.runtime.device).set(1)
        for key in manifest.postprocessors:
            self.p_values.add((model.name, str(model.version), key), model.default.gate.alpha)
        for choice in described(model):
            labels = (model.name, str(model.version), choice.postprocessor)
            self.expected_reject_ratio.labels(*labels).set(choice.gate.expected_false_reject_ratio)
            self.calibration_images.labels(*labels).set(manifest.calibration.n)
            self.calibration_timestamp.labels(*labels).set(manifest.calibration.timestamp)
        for decision in ("accepted", "rejected"):
            self.prediction(model.name, str(model.version), model.default.postprocessor, decision)
        for shadow in model.shadows:
            self.shadow_rejected.labels(model.name, shadow.postprocessor)

    def count(self, model: Model, choice: Choice, verdict: Verdict, class_ids: Sequence[int], shadows: Sequence[Verdict]) -> None:
        """Answered images."""
        version = str(model.version)
        self.p_values.observe((model.name, version, choice.postprocessor), verdict.p_values)
        for class_id, rejected in zip(class_ids, verdict.rejected.tolist(), strict=True):
            decision = "rejected" if rejected else "accepted"
            self.prediction(model.name, version, choice.postprocessor, decision).inc()
            if len(model.manifest.classes) <= MAX_CLASSES:
                self.class_prediction(model.name, model.manifest.classes[class_id], decision).inc()
        for shadow, shadow_verdict in zip(model.shadows, shadows, strict=True):
            self.shadow_rejected.labels(model.name, shadow.postprocessor).inc(int(shadow_verdict.rejected.sum()))

    def render(self) -> bytes:
        """The text format. Takes milliseconds with many classes: not for the event loop."""
        return generate_latest(self.registry)


def described(model: Model) -> Iterable[Choice]:
    """The choices that have gauges of their own: the one that decides and its shadows, each once."""
    return {choice.postprocessor: choice for choice in (*model.shadows, model.default)}.values()
