"""One HTML page of what an evaluation found, to be looked at: it fetches nothing, so it can be sent, kept and opened offline.

Features come from the run's cache, thresholds from its calibration part (`service.bundle.decision`) as in the service.
Every score that is asked for is on the page. `comparison` and `figures` make its parts, `report.html` is its template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch
from markupsafe import Markup

from service.bundle.decision import Gate, TooFewCalibrationImages, open_gate
from service.bundle.evaluation import OperatingPoint, Search
from training import figures
from training.benchmarks import Targets
from training.boundary import scaled_logits, weight_distances
from training.checkpoint import Trained, code_version, load_trained
from training.comparison import Table, caught_table, colours, lost_table, separation_tables
from training.evaluate import operating_points
from training.features import FeatureCache
from training.figures import OodScores
from training.files import write_text
from training.gallery import Gallery, Strip
from training.measure import Measured, measure
from training.metrics import aurc, effective_rank, expected_calibration_error, reliability, selective_risk, spectrum
from training.postprocessors import Outputs


@dataclass(frozen=True)
class Page:
    """What is asked of a report. `beside`: runs whose feature spectrum is drawn with this one's."""

    alpha: float = 0.05
    delta: float = 0.05
    beside: Sequence[Path] = ()
    command: str = ""


@dataclass(frozen=True)
class Scored:
    """What the page shows of one score. Figures are SVG; without enough calibration pictures there is no gate and no point."""

    key: str
    near: float | None
    far: float | None
    aurc: float
    gate: Gate | None
    rejected: float
    caught: Mapping[str, float]
    lost: Mapping[str, float]
    points: Sequence[OperatingPoint]
    histograms: Markup
    roc: Markup
    operating: Markup
    strips: Sequence[Strip]


class Writer:
    """Makes the page of one run's measurements."""

    def __init__(self, measured: Measured, page: Page) -> None:
        self.measured, self.page = measured, page
        self.colours = colours(measured.evaluation.ood_sets)
        self.gallery = Gallery(measured)

    def gate(self, key: str) -> Gate | None:
        try:
            return open_gate(self.measured.calibration[key], self.page.alpha, "pac", self.page.delta)
        except TooFewCalibrationImages:
            return None

    def scored(self, key: str) -> Scored:
        measured, gate = self.measured, self.gate(key)
        threshold = None if gate is None else gate.threshold
        inside, found = measured.id_scores[key], measured.evaluation.postprocessors[key]
        about = measured.evaluation.ood_sets
        outside = [
            OodScores(name, scores[key], self.colours[name], about[name].group == "stand-in", found.sets[name].auroc)
            for name, scores in measured.ood_scores.items()
        ]
        limit = np.inf if threshold is None else threshold
        caught = {entry.name: float((entry.scores > limit).mean()) for entry in outside}
        every = operating_points(measured.calibration[key], inside, {entry.name: entry.scores for entry in outside}, self.page.delta)
        points = [point for point in every if point.guarantee == "pac"]
        return Scored(
            key=key,
            near=None if found.near is None else found.near.auroc,
            far=None if found.far is None else found.far.auroc,
            aurc=aurc(inside, measured.wrong),
            gate=gate,
            rejected=float((inside > limit).mean()),
            caught=caught,
            lost={name: float((scores[key] > limit).mean()) for name, scores in measured.shifted_scores.items()},
            points=points,
            histograms=Markup(figures.histograms(f"histograms-{key}", inside, outside, threshold)),
            roc=Markup(figures.roc(f"roc-{key}", inside, outside, threshold)),
            operating=Markup(figures.operating(f"operating-{key}", points, outside)) if points else Markup(""),
            strips=self.gallery.strips(key, gate),
        )

    def reliability(self) -> Markup:
        """Accuracy against confidence of softmax(f), of softmax(f / D(z)), and of what is served."""
        measured = self.measured
        logits, labels = measured.inside.logits, measured.inside.labels.numpy()
        with torch.inference_mode():
            scaled = scaled_logits(logits, weight_distances(measured.trained.network.head.weight))
            kinds = {"softmax of f": logits.softmax(1), "softmax of f / D(z)": scaled.softmax(1), "as served": measured.fitted.probabilities(logits)}
        rows = {name: values.numpy() for name, values in kinds.items()}
        curves = {name: (reliability(values, labels), expected_calibration_error(values, labels)) for name, values in rows.items()}
        return Markup(figures.reliability("reliability", curves))

    def spectrum(self) -> Markup:
        """Of this run's features of ID test pictures, and of those of the runs beside it."""
        networks: dict[str, Outputs] = {self.measured.trained.recipe.loss: self.measured.inside}
        for run in self.page.beside:
            trained = load_trained(run)
            name = run.name if trained.recipe.loss in networks else trained.recipe.loss
            networks[name] = FeatureCache(run, trained).outputs("ID test", self.measured.targets.id_test)
        spectra = {name: spectrum(outputs.features.numpy()) for name, outputs in networks.items()}
        return Markup(figures.spectrum("spectrum", {name: (values, effective_rank(values)) for name, values in spectra.items()}))

    def tables(self, scored: Sequence[Scored]) -> list[Table]:
        evaluation, alpha = self.measured.evaluation, self.page.alpha
        found = separation_tables(evaluation, self.colours)
        if not all(entry.gate for entry in scored):
            return found
        caught = caught_table(evaluation, self.colours, {entry.key: entry.caught for entry in scored}, alpha)
        if evaluation.full_spectrum is None:
            return [caught, *found]
        return [caught, lost_table(evaluation.full_spectrum, {entry.key: entry.lost for entry in scored}, alpha), *found]

    def write(self) -> str:
        measured = self.measured
        scored = [self.scored(key) for key in measured.id_scores]
        ranked = sorted(scored, key=lambda entry: -np.mean([value for value in (entry.near, entry.far) if value is not None] or [0]))
        risks = {key: selective_risk(scores, measured.wrong) for key, scores in measured.id_scores.items()}
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html").render(
            page=self.page,
            measured=measured,
            recipe=measured.trained.recipe,
            evaluation=measured.evaluation,
            shifted_sets=measured.evaluation.full_spectrum.shifted_sets if measured.evaluation.full_spectrum else {},
            colours=self.colours,
            version=code_version(),
            scored=scored,
            opened=ranked[0],
            tables=self.tables(scored),
            error=float(measured.wrong.mean()),
            reliability=self.reliability(),
            risk=Markup(figures.risk_coverage("risk", risks)),
            spectrum=self.spectrum(),
            dimensions=measured.inside.features.shape[1],
        )


def report(run: Path, trained: Trained, targets: Targets, keys: Sequence[str], page: Page, out: Path, found: Search | None = None) -> None:
    """Writes the page of one run to `out`. found: the search whose choices the scores are fitted with. TrainingError where it cannot."""
    write_text(out, Writer(measure(run, trained, targets, keys, found), page).write())
