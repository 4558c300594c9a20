"""What goes over the wire: the answer, what is loaded, and the problem document."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from service.bundle.decision import Guarantee
from service.bundle.evaluation import Evaluation
from service.bundle.manifest import Manifest
from service.feedback import Decision, Truth


class Wire(BaseModel):
    """What all of them share: frozen, and no key that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Question(Wire):
    """The query parameters of a prediction; defaults where one is left out."""

    model: Annotated[str | None, Field(description="a loaded model; the default one if left out")] = None
    version: Annotated[int | None, Field(description="must be the loaded one")] = None
    postprocessor: Annotated[str | None, Field(description="OOD score that decides")] = None
    alpha: Annotated[float | None, Field(description="share of ID images that may be rejected, within the operator's range")] = None
    top_k: Annotated[int | None, Field(description="classes to list, at most all; 5 if left out")] = None


class Images(Wire):
    """The JSON body of a prediction."""

    model_config = ConfigDict(val_json_bytes="base64")

    images: Annotated[list[bytes], Field(min_length=1, description="encoded pictures, base64")]


class ClassProbability(TypedDict):
    """One class and how probable it is. A plain dictionary, like all parts of an answer: to make models of them took a tenth of a request's time."""

    label: str
    class_id: int
    probability: float


class Ood(TypedDict):
    """p_value: how usual the score is among ID images. Rejected when raw_score is above threshold."""

    raw_score: Annotated[float, Field(description="of the post-processor, in its own unit; higher = stranger")]
    threshold: float
    p_value: Annotated[float, Field(gt=0, le=1, description="share of calibration images at least as strange")]
    ood_score: Annotated[float, Field(ge=0, lt=1, description="1 - p_value")]
    rejected: Annotated[bool, Field(description="the service does not vouch for the label")]


class Prediction(TypedDict):
    """One image's answer; `label` is the most probable class whether rejected or not."""

    filename: str | None
    label: str
    class_id: int
    probability: Annotated[float, Field(description="calibrated, of the label")]
    top_k: list[ClassProbability]
    ood: Ood


class Answer(TypedDict):
    """The answer to one request."""

    model: str
    version: int
    postprocessor: str
    alpha: Annotated[float, Field(description="share of ID images that may be rejected")]
    guarantee: Guarantee
    predictions: Annotated[list[Prediction], Field(description="one per image, in the order they were sent")]


class Flag(Wire):
    """One picture of many that were judged together; of those flagged at most a share `fdr` is fine, on average."""

    model: str
    version: int
    postprocessor: str
    fdr: float
    filename: str
    label: str
    class_id: int
    probability: float
    p_value: float
    flagged: bool


class OperatingPoint(Wire):
    """What one alpha means for one post-processor. Measured figures are null where the evaluation has none."""

    alpha: float
    guarantee: Guarantee
    threshold: float
    expected_false_reject_ratio: float
    measured_false_reject_ratio: float | None
    ood_caught_ratio: Annotated[dict[str, float], Field(description="per OOD set of the evaluation")]
    class_thresholds: Annotated[dict[str, float], Field(description="of the classes that have their own; for all others `threshold` holds")]


class ModelSummary(Wire):
    """What is loaded under one name."""

    name: str
    version: int
    default: Annotated[bool, Field(description="answers when a request names no model")]
    classes: Annotated[int, Field(description="how many")]
    postprocessors: tuple[str, ...]
    postprocessor: Annotated[str, Field(description="decides when a request names none")]
    alpha: float
    guarantee: Guarantee
    provider: Annotated[str, Field(description="what onnxruntime really runs on")]
    device: str


class ModelList(Wire):
    """Everything that is loaded."""

    models: list[ModelSummary]


class DriftReport(Wire):
    """Evidence that more than alpha of the images are rejected: traffic of which no more are ever raises the alarm with probability at most 1 %."""

    alarm: Annotated[bool, Field(description="stays until it is acknowledged")]
    log_e_value: Annotated[float, Field(description="natural logarithm; the alarm is raised at ln 100 = 4.6")]
    images: Annotated[int, Field(description="observed since the beginning or the last acknowledgement")]
    rejected: Annotated[int, Field(description="of these, by the PAC gate at the model's own alpha, whatever the requests asked")]
    alarmed_at: Annotated[int | None, Field(description="how many images had been observed when the alarm was raised")]


class PrevalenceReport(Wire):
    """At least what share of the latest images is OOD: an estimate from their p-values."""

    ratio: float
    standard_error: float
    lower: Annotated[float, Field(description="the share is at least this, at 99 % confidence")]
    images: Annotated[int, Field(description="in the sliding window")]


class FeedbackRate(Wire):
    """`events` among `images`, with 95 % Clopper-Pearson bounds; null without images."""

    images: int
    events: int
    ratio: float | None
    lower: float
    upper: float


class FeedbackReport(Wire):
    """What feedback says of the model's own gate. The bounds hold if who tells the truth does not depend on the decision."""

    false_reject: Annotated[FeedbackRate, Field(description="rejected, of the images told to be ID")]
    missed_ood: Annotated[FeedbackRate, Field(description="accepted, of the images told to be OOD")]


class MonitorReport(Wire):
    """What this process has seen of the model's traffic."""

    drift: Annotated[DriftReport | None, Field(description="null where too few calibration images promise no PAC gate")]
    prevalence: Annotated[PrevalenceReport | None, Field(description="null before the first image")]
    feedback: FeedbackReport


class ModelDetail(ModelSummary):
    """Everything known of one model."""

    manifest: Manifest
    evaluation: Evaluation
    operating_points: dict[str, list[OperatingPoint]]
    monitor: MonitorReport


class Feedback(Wire):
    """The truth about an answered image: its class, or whether it was none that the model can know."""

    request_id: Annotated[str, Field(description="the answer's X-Request-ID")]
    position: Annotated[int | None, Field(ge=1, description="which image of the request, the first being 1; needed if there were several")] = None
    label: Annotated[str | None, Field(description="the true class, one of the model's: the image was ID")] = None
    was_ood: bool | None = None

    @model_validator(mode="after")
    def tells_one_thing(self) -> "Feedback":
        if (self.label is None) == (self.was_ood is None):
            raise ValueError("give either label or was_ood")
        return self


class FeedbackReceipt(Wire):
    """What was counted."""

    request_id: str
    model: str
    version: int
    position: int
    truth: Truth
    decision: Annotated[Decision, Field(description="of the model's own gate, whatever the request asked")]


class Health(Wire):
    """The answer of a probe that is content."""

    status: str


class Problem(BaseModel):
    """RFC 9457. `type` is stable and what programs should go by; `detail` is for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Annotated[str, Field(examples=["urn:oodgate:problem:queue-full"])]
    title: str
    status: int
    detail: str
    request_id: str


def example_answer() -> dict[str, Any]:
    """The answer that the API's documentation shows."""
    cat = ClassProbability(label="cat", class_id=3, probability=0.981)
    ood = Ood(raw_score=-0.213, threshold=-0.101, p_value=0.412, ood_score=0.588, rejected=False)
    prediction = Prediction(filename=None, label="cat", class_id=3, probability=0.981, top_k=[cat], ood=ood)
    answer = Answer(model="cifar10-airbench", version=1, postprocessor="knn", alpha=0.05, guarantee="pac", predictions=[prediction])
    return dict(answer)
