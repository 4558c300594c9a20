"""What was measured on a bundle's very graph: the types of evaluation.json."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.bundle.decision import Guarantee

Group = Literal["near", "far", "stand-in"]
Ratio = Annotated[float, Field(ge=0, le=1)]
Hyperparameter = bool | int | float | str | None


class Strict(BaseModel):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Count(Strict):
    """How many images of a set there were. `expected` is the benchmark's count; a set with fewer is absent or partial."""

    images: int
    expected: int | None = None

    @property
    def incomplete(self) -> bool:
        return self.expected not in (None, self.images)


class OodSet(Count):
    """One OOD set of an evaluation."""

    group: Group


class Separation(Strict):
    """How well one score tells ID from one OOD set (or the mean over sets). OOD is the positive class.

    fpr95_ood_caught: share of ID rejected when 95 % of OOD is caught (OpenOOD v1.5's FPR@95).
    fpr95_id_kept: share of OOD accepted when 95 % of ID is kept (ODIN's FPR at 95 % TPR).
    """

    auroc: Ratio
    aupr_in: Ratio
    aupr_out: Ratio
    fpr95_id_kept: Ratio
    fpr95_ood_caught: Ratio


class OperatingPoint(Strict):
    """What one threshold does: its promise, and what was measured on test pictures."""

    alpha: Ratio
    guarantee: Guarantee
    threshold: float
    expected_false_reject_ratio: Ratio
    measured_false_reject_ratio: Ratio
    ood_caught_ratio: dict[str, Ratio]


class PostprocessorEvaluation(Strict):
    """One score on every OOD set, the unweighted means of the near and far sets, and its operating points."""

    sets: dict[str, Separation]
    near: Separation | None
    far: Separation | None
    operating_points: tuple[OperatingPoint, ...] = ()


class ShiftedSet(Count):
    """ID classes under covariate shift; accuracy is None of an absent set."""

    accuracy: Ratio | None = None


class FullSpectrum(Strict):
    """The same evaluation with the shifted sets counted as ID: accuracy and scores of ID and shifted pictures together."""

    accuracy: Ratio
    shifted_sets: dict[str, ShiftedSet]
    postprocessors: dict[str, PostprocessorEvaluation]

    def incomplete(self) -> frozenset[str]:
        """As of the evaluation. One shifted set that lacks pictures makes both means incomplete."""
        sets = {name for name, about in self.shifted_sets.items() if about.incomplete}
        return frozenset({*sets, "near", "far"} if sets else ())


class Choice(Strict):
    """What the search chose for one score: the arguments, their AUROC, how many of the grid were tried.

    left_out: combinations that could not be fitted or gave values that are not finite.
    """

    hyperparameters: dict[str, Hyperparameter]
    auroc: Ratio
    tried: int
    left_out: int = 0


class Search(Strict):
    """Hyper-parameters chosen by AUROC, ID validation against OOD validation pictures, as OpenOOD's APS does."""

    id_images: int
    ood_images: int
    choices: dict[str, Choice]


class Evaluation(Strict):
    """evaluation.json: measured on this very graph. ece: of the served probabilities. Of the network in fp32, without a temperature:
    ece_raw of softmax(f), ece_scaled of softmax(f / D(z)), None where it was not measured.

    id_expected: pictures of the benchmark's list; fewer are partial. search: None where every score has its defaults.
    """

    id_data: str
    id_images: int
    accuracy: Ratio
    ece: Ratio
    ece_raw: Ratio
    ece_scaled: Ratio | None = None
    ood_sets: dict[str, OodSet]
    postprocessors: dict[str, PostprocessorEvaluation]
    id_expected: int | None = None
    full_spectrum: FullSpectrum | None = None
    search: Search | None = None

    def incomplete(self) -> frozenset[str]:
        """Names of the sets that are absent or partial, and of the groups whose mean lacks pictures because of that."""
        sets = {name: about for name, about in self.ood_sets.items() if about.incomplete}
        groups = {about.group for about in sets.values()}
        if self.id_expected not in (None, self.id_images):
            groups = {"near", "far"}
        return frozenset({*sets, *groups})
