"""A model that answers: its bundle, its runtime, the queue before it, and the gates that decide."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import numpy as np

from service.batcher import Batcher
from service.bundle.decision import STANDARD_ALPHAS, Guarantee, Scores, TooFewCalibrationImages, open_gate
from service.bundle.manifest import Bundle, load_bundle
from service.bundle.reference import References, open_references
from service.runtime import Runtime
from service.schemas import Answer, ClassProbability, ModelDetail, ModelSummary, Ood, OperatingPoint, Prediction
from service.settings import Settings
from service.verdict import Choice, Judged, Verdict, judge, judging
from service.watch import Subject, Watch


class UnknownPostprocessor(Exception):
    """The bundle has no such score."""


class AlphaOutOfRange(Exception):
    """The alpha asked for is outside what the operator allows."""


class TopKOutOfRange(Exception):
    """More classes asked for than there are, or none."""


class Model:
    """Open with `async with`. Raises, when made, whatever keeps the settings' promise from being kept."""

    def __init__(self, runtime: Runtime, settings: Settings, on_batch: Callable[[int], None] | None = None) -> None:
        self.runtime = runtime
        self.settings = settings
        self.bundle: Bundle = runtime.bundle
        self.manifest = self.bundle.manifest
        self.name = self.manifest.name
        self.version = self.manifest.version
        self.guarantee: Guarantee = settings.guarantee
        self.users = 0
        # Bounded: alpha comes from the clients. Knows the calibration and not the model, which a cycle would keep alive after its time.
        self.references = lru_cache(maxsize=128)(partial(open_references, self.bundle, guarantee=self.guarantee))
        self.default = self.choose(settings.postprocessor or self.manifest.default_postprocessor, None)
        self.shadows = tuple(self.choose(key, None) for key in settings.shadow_postprocessors)
        self.watched, self.promised = self.choose_watched()
        self.watch = self.begin_watch()
        self.batcher = Batcher(
            judging(runtime.run, self.default),
            settings.max_batch_size,
            settings.max_queue_size,
            settings.max_queue_delay_ms,
            on_batch,
            judging(runtime.run_beside, self.default),
            runtime.workers,
        )

    async def __aenter__(self) -> Self:
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.batcher.__aexit__(*exc_info)

    def __enter__(self) -> Self:
        """In use: until the end of the block the model is not closed, though another version may have taken its name."""
        self.users += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.users -= 1

    def choose(self, postprocessor: str | None, alpha: float | None) -> Choice:
        """The gate for what a request asks, defaults where it asks nothing.

        Raises UnknownPostprocessor, AlphaOutOfRange or TooFewCalibrationImages.
        """
        if postprocessor is None and alpha is None:
            return self.default
        key = postprocessor or self.default.postprocessor
        if key not in self.manifest.postprocessors:
            raise UnknownPostprocessor(f"{self.name} has no post-processor {key!r}, it has {', '.join(self.manifest.postprocessors)}")
        if alpha is None:
            alpha = self.settings.alpha or self.manifest.calibration.alpha
        if not self.settings.alpha_min <= alpha <= self.settings.alpha_max:
            raise AlphaOutOfRange(f"alpha is {alpha:g}, it must be between {self.settings.alpha_min:g} and {self.settings.alpha_max:g}")
        column = self.manifest.postprocessors.index(key)
        return Choice(key, column, self.references(column, alpha))

    def choose_watched(self) -> tuple[Choice, bool]:
        """The default choice with one gate for all classes, and whether it keeps the PAC promise, without which there is no drift alarm."""
        pooled = self.default.references.pooled
        together = replace(self.default, references=References(pooled)) if self.default.references.own else self.default
        if self.guarantee == "pac":
            return together, True
        try:
            gate = open_gate(pooled.calibration, pooled.gate.alpha, "pac", self.manifest.calibration.delta)
        except TooFewCalibrationImages:
            return together, False
        return replace(self.default, references=References(replace(pooled, gate=gate))), True

    def begin_watch(self) -> Watch:
        about = self.manifest.calibration
        subject = Subject(
            model=self.name,
            version=self.version,
            calibration=self.manifest.sha256["calibration.npz"],
            postprocessor=self.default.postprocessor,
            alpha=self.default.gate.alpha,
            delta=about.delta,
        )
        return Watch(subject, self.manifest.classes, about.n, self.settings.prevalence_window, self.promised)

    def decide(self, judged: Judged, choice: Choice) -> Verdict:
        """What the chosen post-processor decides."""
        own = judged.own
        return own if choice.references is self.default.references else judge(judged.probabilities, judged.scores, choice, own.ranked)

    def observe(self, judged: Judged) -> list[bool]:
        """Shows the watch answered images. Returns which of them (N,) its own gate rejects.

        Whatever a request asks for, the watch sees the model's own post-processor and alpha: a client cannot move it by asking for others.
        """
        own, watched = judged.own, self.decide(judged, self.watched)
        # Plain numbers: for the few images of a request they are faster than arrays.
        rejected: list[bool] = own.rejected.tolist()
        self.watch.observe(watched.p_values.tolist(), rejected if watched is own else watched.rejected.tolist())
        return rejected

    def check_top_k(self, top_k: int | None) -> int:
        """How many classes to list: five, or as many as there are, when nobody asks."""
        classes = len(self.manifest.classes)
        if top_k is None:
            return min(5, classes)
        if not 1 <= top_k <= classes:
            raise TopKOutOfRange(f"top_k is {top_k}, it must be between 1 and {classes}, the number of classes")
        return top_k

    def answer(self, probabilities: Scores, scores: Scores, verdict: Verdict, choice: Choice, top_k: int, names: Sequence[str | None]) -> Answer:
        """Probabilities (N, C), scores (N, P) and what was decided, as it goes over the wire."""
        classes = self.manifest.classes
        predictions = []
        for row, name in enumerate(names):
            top = [
                ClassProbability(label=classes[class_id], class_id=class_id, probability=shortest(probabilities[row, class_id]))
                for class_id in verdict.ranked[row, :top_k].tolist()
            ]
            p_value = float(verdict.p_values[row])
            ood = Ood(
                raw_score=shortest(scores[row, choice.column]),
                threshold=shortest(np.float32(verdict.thresholds[row])),
                p_value=p_value,
                ood_score=1 - p_value,
                rejected=bool(verdict.rejected[row]),
            )
            best = top[0]
            predictions.append(Prediction(filename=name, **best, top_k=top, ood=ood))
        return Answer(
            model=self.name,
            version=self.version,
            postprocessor=choice.postprocessor,
            alpha=choice.gate.alpha,
            guarantee=choice.gate.guarantee,
            predictions=predictions,
        )

    def summary(self, default: bool) -> ModelSummary:
        return ModelSummary(
            name=self.name,
            version=self.version,
            default=default,
            classes=len(self.manifest.classes),
            postprocessors=self.manifest.postprocessors,
            postprocessor=self.default.postprocessor,
            alpha=self.default.gate.alpha,
            guarantee=self.guarantee,
            provider=self.runtime.provider,
            device=self.runtime.device,
        )

    def detail(self, default: bool, operating_points: dict[str, list[OperatingPoint]]) -> ModelDetail:
        return ModelDetail(
            **dict(self.summary(default)),
            manifest=self.manifest,
            evaluation=self.bundle.evaluation,
            operating_points=operating_points,
            monitor=self.watch.report(),
        )

    def operating_points(self) -> dict[str, list[OperatingPoint]]:
        return {key: self.points_of(key) for key in self.manifest.postprocessors}

    def points_of(self, key: str) -> list[OperatingPoint]:
        """The gate at each standard alpha that may be asked for and can be promised, beside what the evaluation measured there."""
        measured = {}
        if key in self.bundle.evaluation.postprocessors:
            measured = {(point.alpha, point.guarantee): point for point in self.bundle.evaluation.postprocessors[key].operating_points}
        points = []
        allowed = {alpha for alpha in STANDARD_ALPHAS if self.settings.alpha_min <= alpha <= self.settings.alpha_max}
        for alpha in sorted({*allowed, self.default.gate.alpha}):
            try:
                references = self.references(self.manifest.postprocessors.index(key), alpha)
            except TooFewCalibrationImages:
                continue
            gate = references.shared.gate
            found = measured.get((alpha, gate.guarantee))
            points.append(
                OperatingPoint(
                    alpha=alpha,
                    guarantee=gate.guarantee,
                    threshold=shortest(np.float32(gate.threshold)),
                    expected_false_reject_ratio=references.expected_false_reject_ratio,
                    measured_false_reject_ratio=found.measured_false_reject_ratio if found else None,
                    ood_caught_ratio=found.ood_caught_ratio if found else {},
                    class_thresholds={
                        self.manifest.classes[class_id]: shortest(np.float32(own.gate.threshold)) for class_id, own in references.own.items()
                    },
                )
            )
        return points


def open_model(folder: Path, settings: Settings, on_batch: Callable[[int], None] | None = None) -> Model:
    """A bundle loaded, and checked on the device that it will use. Raises BundleError, WrongDevice and what Model raises."""
    runtime = Runtime(load_bundle(folder), settings.device, settings.intra_op_threads, settings.max_batch_size)
    model = Model(runtime, settings, on_batch)
    runtime.check_golden()
    return model


def open_warm(folder: Path, settings: Settings, on_batch: Callable[[int], None] | None = None) -> Model:
    """As `open_model`, and ready for batches of any size: a request does not wait for what they need."""
    model = open_model(folder, settings, on_batch)
    model.runtime.warm()
    return model


def shortest(value: np.float32) -> float:
    """The float whose decimal form is float32's shortest: 0.981, not 0.9810000061988831. Keeps the order of any two."""
    return float(str(value))
