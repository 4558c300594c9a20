"""Every Prometheus series, on a registry of its own, with the children of hot series looked up once."""

from collections.abc import Iterable, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from service import processes
from service.histogram import PValues, reference
from service.model import Model
from service.monitor import estimate
from service.verdict import Choice, Verdict
from service.watch import Watch, log_mean

STAGE_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGES = ("read", "decode", "queue", "infer", "encode")
MAX_CLASSES = 1000


class Metrics:
    """Made once per application. Names and labels are what dashboards and alert rules rely on."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"oodgate_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str, together: str = "livemax") -> Gauge:
            """together: what several processes make of it. liveall: each keeps its own, told apart by the label pid."""
            return Gauge(f"oodgate_{name}", what, labels, registry=registry, multiprocess_mode=together)  # type: ignore[arg-type]

        self.requests = counter("requests_total", "Requests answered", "route", "status")
        self.predictions = counter("predictions_total", "Images answered", "model", "version", "postprocessor", "decision")
        self.class_predictions = counter("class_predictions_total", "Images answered, by predicted class", "model", "class", "decision")
        self.shadow_rejected = counter("shadow_rejected_total", "Images that a shadow post-processor would have rejected", "model", "postprocessor")
        by_score = ("model", "version", "postprocessor")
        self.expected_reject_ratio = gauge("expected_reject_ratio", "Share of ID images that the default gate rejects on average", *by_score)
        self.calibration_images = gauge("calibration_images", "Images that the thresholds rest on", *by_score)
        self.calibration_timestamp = gauge("calibration_timestamp_seconds", "When the model was calibrated", *by_score)
        self.p_value_reference = gauge("ood_p_value_reference_ratio", "Share of ID images with at most this p-value", "model", "version", "le")
        self.drift_log_e_value = gauge(
            "drift_log_e_value", "Evidence that more than alpha is rejected, as a natural logarithm", "model", together="liveall"
        )
        self.drift_alarm = gauge("drift_alarm", "1 from when the evidence reached ln 100 until it is acknowledged", "model", together="liveall")
        self.prevalence = gauge("ood_prevalence_ratio", "At least what share of the latest images is OOD, estimated", "model", together="liveall")
        self.prevalence_error = gauge("ood_prevalence_standard_error_ratio", "Standard error of that share", "model", together="liveall")
        self.prevalence_lower = gauge("ood_prevalence_lower_ratio", "What that share is at least, at 99 % confidence", "model", together="liveall")
        by_version = ("model", "version")
        self.feedback_images = gauge(
            "feedback_images", "Images of which feedback told the truth", *by_version, "truth", "decision", together="livesum"
        )
        self.false_reject = gauge("false_reject_ratio", "Rejected, of the images told to be ID", *by_version, "bound", together="liveall")
        self.missed_ood = gauge("missed_ood_ratio", "Accepted, of the images told to be OOD", *by_version, "bound", together="liveall")
        self.stage_duration = Histogram(
            "oodgate_stage_duration_seconds", "Where a prediction's time went", ("stage",), buckets=STAGE_BOUNDS, registry=registry
        )
        self.batch_images = Histogram("oodgate_batch_images", "Images per inference", buckets=BATCH_BOUNDS, registry=registry)
        self.queue_images = gauge("queue_images", "Images that wait, being decoded or for their turn", together="livesum")
        self.shed = counter("shed_total", "Requests turned away", "reason")
        self.invalid_images = counter("invalid_images_total", "Images that could not be answered", "reason")
        self.model_info = gauge("model_info", "1 for every loaded model", "model", "version", "sha256")
        self.provider_info = gauge("provider_info", "1 for what onnxruntime really runs on", "provider", "device")
        self.model_loads = counter("model_loads_total", "Attempts to load a model", "model", "result")
        self.capture = counter(
            "capture_total", "Rejected images, and accepted ones drawn as control, by whether they were captured", "kind", "result"
        )
        self.capture_bytes = gauge("capture_bytes", "Bytes that capture_dir holds, found or written")
        self.p_values = PValues()
        registry.register(self.p_values)
        ProcessCollector(registry=registry)
        # Of each version: the gauges that go when it does.
        self.standing: dict[tuple[str, str], set[tuple[Gauge, tuple[str, ...]]]] = {}
        # Looking a child up by its labels costs more than counting.
        self.request = cache(self.requests.labels)
        self.prediction = cache(self.predictions.labels)
        self.class_prediction = cache(self.class_predictions.labels)
        self.shadow = cache(self.shadow_rejected.labels)
        self.stage = {stage: self.stage_duration.labels(stage) for stage in STAGES}
        for reason in ("queue_full", "too_many_bytes", "deadline", "not_ready", "slow_body"):
            self.shed.labels(reason)

    def forget(self, model: Model) -> None:
        """What no longer holds once a model is not served; what was counted stays."""
        for gauge, labels in self.standing.pop((model.name, str(model.version)), set()):
            if processes.shared():
                # A series cannot be taken out of a file that others read.
                gauge.labels(*labels).set(0)
            else:
                gauge.remove(*labels)

    def stand(self, model: Model, gauge: Gauge, value: float, *labels: str) -> None:
        """Sets a gauge that holds as long as the model is served; the first label is its name."""
        labels = (model.name, *labels)
        gauge.labels(*labels).set(value)
        self.standing.setdefault((model.name, str(model.version)), set()).add((gauge, labels))

    def describe(self, model: Model) -> None:
        """What is known of a model before it answers anything, so that rates start from zero."""
        manifest, version, alpha = model.manifest, str(model.version), model.default.gate.alpha
        self.stand(model, self.model_info, 1, version, manifest.sha256["model.onnx"])
        self.provider_info.labels(model.runtime.provider, model.runtime.device).set(1)
        for key in manifest.postprocessors:
            self.p_values.add((model.name, version, key), alpha)
        for bound, share in reference(alpha, manifest.calibration.n).items():
            self.stand(model, self.p_value_reference, share, version, bound)
        for choice in described(model):
            self.stand(model, self.expected_reject_ratio, choice.references.expected_false_reject_ratio, version, choice.postprocessor)
            self.stand(model, self.calibration_images, manifest.calibration.n, version, choice.postprocessor)
            self.stand(model, self.calibration_timestamp, manifest.calibration.timestamp, version, choice.postprocessor)
        for result in ("loaded", "failed"):
            self.model_loads.labels(model.name, result)
        for decision in ("accepted", "rejected"):
            self.prediction(model.name, version, model.default.postprocessor, decision)
        for shadow in model.shadows:
            self.shadow(model.name, shadow.postprocessor)

    def count(self, model: Model, choice: Choice, verdict: Verdict, shadows: Sequence[Verdict]) -> None:
        """Answered images."""
        name, version, classes = model.name, str(model.version), model.manifest.classes
        self.p_values.observe((name, version, choice.postprocessor), verdict.p_values)
        for class_id, rejected in zip(verdict.class_ids.tolist(), verdict.rejected.tolist(), strict=True):
            decision = "rejected" if rejected else "accepted"
            self.prediction(name, version, choice.postprocessor, decision).inc()
            if len(classes) <= MAX_CLASSES:
                self.class_prediction(name, classes[class_id], decision).inc()
        for shadow, shadow_verdict in zip(model.shadows, shadows, strict=True):
            self.shadow(model.name, shadow.postprocessor).inc(int(shadow_verdict.rejected.sum()))

    def publish(self, models: Sequence[Model]) -> None:
        """What the watches of one name's versions know. The gauges without a version: the mean of e-values is one; any alarm counts; the
        windows of p-values, which mean the same in every version, are one window.
        """
        name, watches = models[0].name, [model.watch for model in models]
        if drifts := [watch.drift for watch in watches if watch.drift is not None]:
            self.drift_log_e_value.labels(name).set(log_mean([drift.log_e_value for drift in drifts]))
            self.drift_alarm.labels(name).set(any(drift.alarmed_at is not None for drift in drifts))
        share = estimate([watch.prevalence for watch in watches])
        self.prevalence.labels(name).set(share.ratio)
        self.prevalence_error.labels(name).set(share.standard_error)
        self.prevalence_lower.labels(name).set(share.lower)
        for model in models:
            self.publish_feedback(model, model.watch)

    def publish_feedback(self, model: Model, watch: Watch) -> None:
        version = str(model.version)
        for (truth, decision), images in watch.tally.counts.items():
            self.stand(model, self.feedback_images, images, version, truth, decision)
        for gauge, rate in ((self.false_reject, watch.tally.false_reject), (self.missed_ood, watch.tally.missed_ood)):
            for bound, value in (("estimate", rate.ratio), ("lower", rate.lower), ("upper", rate.upper)):
                self.stand(model, gauge, value, version, bound)

    def render(self) -> bytes:
        """The text format. Takes milliseconds with many classes: not for the event loop."""
        return generate_latest(processes.everyones() if processes.shared() else self.registry)


def described(model: Model) -> Iterable[Choice]:
    """The choices that have gauges of their own: the one that decides and its shadows, each once."""
    return {choice.postprocessor: choice for choice in (*model.shadows, model.default)}.values()
