"""What is watched of one version of a model: its drift, its prevalence, its feedback; and the form in which this outlives the process."""

import hashlib
import math
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from service.feedback import Rate, Tally
from service.monitor import BETS, Drift, Prevalence
from service.schemas import DriftReport, FeedbackRate, FeedbackReport, MonitorReport, PrevalenceReport

Counts = Annotated[NonNegativeInt, Field(le=2**53)]


class Stored(BaseModel):
    """What all parts of a stored state share."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), strict=True)


class Subject(Stored):
    """What is watched. Evidence about one is worth nothing about another, so a state is bound to all of this."""

    model: str
    version: int
    calibration: Annotated[str, Field(description="sha256 of calibration.npz")]
    postprocessor: str
    alpha: float
    delta: float

    @property
    def file(self) -> str:
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
        return f"{self.model}-{self.version}-{digest}.json"


class DriftState(Stored):
    """A Drift that has seen images."""

    images: Annotated[int, Field(ge=1, le=2**53)]
    rejected: Counts
    log_wealth: Annotated[list[FiniteFloat], Field(min_length=BETS, max_length=BETS)]
    alarmed_at: Counts | None

    @model_validator(mode="after")
    def counts_agree(self) -> "DriftState":
        if max(self.rejected, self.alarmed_at or 0) > self.images:
            raise ValueError(f"{self.rejected} rejected and an alarm at {self.alarmed_at} of {self.images} images cannot be")
        return self


class WatchState(Stored):
    """One file of the state folder."""

    format_version: Literal[1] = 1
    subject: Subject
    drift: DriftState | None
    recent: Annotated[str, Field(pattern="^[01]*$", description="whether each of the latest images had a usual p-value")]
    feedback: Annotated[list[Counts], Field(min_length=4, max_length=4, description="ID accepted, ID rejected, OOD accepted, OOD rejected")]


class Watch:
    """Goes on when its model is loaded anew. `drift` is None where no alarm can be promised: the calibration images are too few for PAC."""

    def __init__(self, subject: Subject, classes: tuple[str, ...], calibration_images: int, window: int, promised: bool) -> None:
        self.subject = subject
        self.classes = classes
        self.drift = Drift(subject.alpha) if promised else None
        self.prevalence = Prevalence(calibration_images, window)
        self.tally = Tally()
        self.changed = False

    def observe(self, p_values: Iterable[float], rejected: Iterable[bool]) -> None:
        """Further images (N,): p-values of the model's own post-processor, and what its PAC gate says."""
        self.prevalence.observe(p_values)
        if self.drift is not None:
            self.drift.observe(rejected)
        self.changed = True

    def acknowledge(self) -> None:
        """Begins the alarm anew; from here on it promises what it promised at first."""
        if self.drift is not None:
            self.drift = Drift(self.subject.alpha)
        self.changed = True

    def state(self) -> WatchState:
        drift = None
        if self.drift is not None and self.drift.images:
            of = self.drift
            drift = DriftState(images=of.images, rejected=of.rejected, log_wealth=of.log_wealth().tolist(), alarmed_at=of.alarmed_at)
        return WatchState(
            subject=self.subject,
            drift=drift,
            recent="".join("1" if usual else "0" for usual in self.prevalence.usual),
            feedback=list(self.tally.counts.values()),
        )

    def restore(self, state: WatchState) -> None:
        if self.drift is not None and state.drift is not None:
            self.drift.images, self.drift.rejected = state.drift.images, state.drift.rejected
            self.drift.settled = np.array(state.drift.log_wealth)
            self.drift.alarmed_at = state.drift.alarmed_at
        window = self.prevalence.usual
        window.extend(bit == "1" for bit in state.recent)
        self.prevalence.count = sum(window)
        self.tally.counts = dict(zip(self.tally.counts, state.feedback, strict=True))

    def report(self) -> MonitorReport:
        """As `GET /models/{name}` shows it."""
        share = self.prevalence.estimate()
        drift = None
        if self.drift is not None:
            of = self.drift
            drift = DriftReport(
                alarm=of.alarmed_at is not None,
                log_e_value=of.log_e_value,
                images=of.images,
                rejected=of.rejected,
                alarmed_at=of.alarmed_at,
            )
        return MonitorReport(
            drift=drift,
            prevalence=PrevalenceReport.model_validate(share, from_attributes=True) if share.images else None,
            feedback=FeedbackReport(false_reject=rate_report(self.tally.false_reject), missed_ood=rate_report(self.tally.missed_ood)),
        )


def rate_report(rate: Rate) -> FeedbackRate:
    ratio = None if math.isnan(rate.ratio) else rate.ratio
    return FeedbackRate(images=rate.images, events=rate.events, ratio=ratio, lower=rate.lower, upper=rate.upper)


def log_mean(log_e_values: list[float]) -> float:
    """The logarithm of the mean of e-values, which is one again."""
    return float(np.logaddexp.reduce(log_e_values)) - math.log(len(log_e_values))
