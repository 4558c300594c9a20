"""The report's figures: numbers in, inline SVG out. Colours are the page's (CSS variables), so one figure fits light and dark.

Knows nothing of runs, files or HTML. Every figure is one function.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from service.bundle.evaluation import OperatingPoint
from training.metrics import Reliability

Array = NDArray[Any]
P = ParamSpec("P")

# A colour that matplotlib understands stands for each name and is replaced by var(--name) in the SVG.
NAMES = ("ink", "muted", "line", "id", "reject", "accent", *(f"ood{i}" for i in range(12)))
COLOUR = {name: f"#0000{i + 1:02x}" for i, name in enumerate(NAMES)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOUR["line"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.titlecolor": COLOUR["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOUR["line"],
    "grid.linewidth": 0.5,
    "xtick.color": COLOUR["line"],
    "ytick.color": COLOUR["line"],
    "xtick.labelcolor": COLOUR["muted"],
    "ytick.labelcolor": COLOUR["muted"],
    "text.color": COLOUR["ink"],
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
PERCENT = PercentFormatter(1, decimals=0)


@dataclass(frozen=True)
class OodScores:
    """The scores (M,) of one OOD set under one post-processor, and how the set is drawn."""

    name: str
    scores: Array
    colour: str
    stand_in: bool
    auroc: float

    @property
    def dashes(self) -> str:
        return "--" if self.stand_in else "-"


def inline(figure: Figure, salt: str) -> str:
    """An SVG element without size, metadata or fonts of its own. `salt` keeps its identifiers apart from other figures'."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
    svg = re.sub(r'<g id="(?!curve)[^"]*"', "<g", svg)
    for name, colour in COLOUR.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r'"[^"]*"', lambda value: re.sub(r"(\d+\.\d\d)\d+", r"\1", value[0]), svg)


def svg(draw: Callable[P, Figure]) -> Callable[Concatenate[str, P], str]:
    """Makes a function that draws a matplotlib figure one that returns SVG; its new first argument is the salt."""

    @wraps(draw)
    def drawn(salt: str, /, *args: P.args, **kwargs: P.kwargs) -> str:
        with mpl.rc_context(STYLE):
            return inline(draw(*args, **kwargs), salt)

    return drawn


def one(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@svg
def histograms(inside: Array, outside: Sequence[OodScores], threshold: float | None) -> Figure:
    """ID above the line, one OOD set below it, a panel for each set; to the right of the threshold pictures are rejected."""
    rows = -(-len(outside) // 4)
    columns = -(-len(outside) // rows)
    figure = Figure(figsize=(11, 1.75 * rows + 0.25), layout="constrained")
    low, high = np.quantile(np.concatenate([inside, *(entry.scores for entry in outside)]), [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 61)
    for position, entry in enumerate(outside):
        axes = figure.add_subplot(rows, columns, position + 1)
        for scores, colour, sign in ((inside, COLOUR["id"], 1), (entry.scores, COLOUR[entry.colour], -1)):
            heights = np.histogram(scores.clip(edges[0], edges[-1]), edges)[0]
            axes.stairs(sign * heights / heights.max(), edges, fill=True, color=colour, alpha=0.85)
        title = entry.name
        if threshold is not None:
            axes.axvline(threshold, color=COLOUR["reject"], linewidth=1.2)
            axes.axvspan(threshold, edges[-1], color=COLOUR["reject"], alpha=0.08, linewidth=0)
            title += f"  ·  {(entry.scores > threshold).mean():.0%} caught"
        axes.axhline(0, color=COLOUR["muted"], linewidth=0.6)
        axes.set_title(title, loc="left")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(-1.08, 1.08)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
    return figure


@svg
def roc(inside: Array, outside: Sequence[OodScores], threshold: float | None) -> Figure:
    """Share of OOD caught against share of ID rejected, a curve for each OOD set, and a dot where the threshold is."""
    figure, axes = one(5.4, 4.3)
    axes.plot([0, 1], [0, 1], color=COLOUR["line"], linewidth=1)
    # Fine where thresholds are: at few false rejects.
    rejected = np.concatenate([np.linspace(0, 0.1, 60), np.linspace(0.1, 1, 90)[1:]])
    thresholds = np.quantile(inside, 1 - rejected)
    for entry in outside:
        caught = [(entry.scores > limit).mean() for limit in thresholds]
        axes.plot(rejected, caught, entry.dashes, color=COLOUR[entry.colour], label=f"{entry.name}  {entry.auroc:.1%}")
        if threshold is not None:
            axes.plot((inside > threshold).mean(), (entry.scores > threshold).mean(), "o", color=COLOUR[entry.colour], markersize=5)
    percent_axes(axes, "good pictures rejected", "OOD pictures caught")
    axes.legend(loc="lower right", title="AUROC", alignment="left")
    return figure


@svg
def operating(points: Sequence[OperatingPoint], outside: Sequence[OodScores]) -> Figure:
    """What each promised alpha catches of each OOD set, in the colours of the ROC, and what it rejects of ID."""
    figure, axes = one(5.4, 4.3)
    alphas = [point.alpha for point in points]
    for entry in outside:
        caught = [point.ood_caught_ratio[entry.name] for point in points]
        axes.plot(alphas, caught, entry.dashes, marker="o", markersize=3.5, color=COLOUR[entry.colour])
    measured = [point.measured_false_reject_ratio for point in points]
    axes.plot(alphas, measured, marker="o", markersize=3.5, color=COLOUR["id"])
    axes.annotate("good pictures", (alphas[-1], measured[-1]), (0, 6), textcoords="offset points", ha="right", color=COLOUR["id"])
    percent_axes(axes, "alpha: good pictures that may be rejected", "pictures rejected")
    axes.set_xscale("log")
    axes.set_xlim(alphas[0] * 0.85, alphas[-1] * 1.18)
    axes.set_xticks(alphas, [f"{alpha:.1%}" if alpha < 0.01 else f"{alpha:.0%}" for alpha in alphas])
    axes.xaxis.set_minor_locator(NullLocator())
    return figure


@svg
def reliability(curves: Mapping[str, tuple[Reliability, float]]) -> Figure:
    """Accuracy against confidence for each kind of probability (bins, ECE); a dot's area is its share of the pictures."""
    figure, axes = one(5.4, 4.3)
    axes.plot([0, 1], [0, 1], color=COLOUR["muted"], linewidth=0.8, linestyle=":")
    colours = ("reject", "ood5", "id", "ood8")
    for (name, (bins, ece)), colour in zip(curves.items(), colours, strict=False):
        there = bins.counts > 0
        axes.plot(bins.confidence[there], bins.accuracy[there], color=COLOUR[colour], label=f"{name}  {ece:.1%}")
        sizes = 220 * bins.counts[there] / bins.counts.sum()
        axes.scatter(bins.confidence[there], bins.accuracy[there], sizes, color=COLOUR[colour], alpha=0.45, linewidths=0)
    percent_axes(axes, "confidence: largest probability", "accuracy")
    axes.legend(loc="upper left", title="expected calibration error", alignment="left")
    return figure


@svg
def risk_coverage(risks: Mapping[str, Array]) -> Figure:
    """Errors among the answers that are kept, for every score at once; the page lights up the chosen one (`curve-<key>`)."""
    figure, axes = one(5.4, 4.3)
    count = len(next(iter(risks.values())))
    # The first few answers say nothing yet: one error among ten is 10 %.
    rows = np.unique(np.linspace(min(count // 20, 49), count - 1, 200).astype(int))
    for key, risk in risks.items():
        axes.plot((rows + 1) / count, risk[rows], color=COLOUR["muted"], linewidth=0.9, alpha=0.4, gid=f"curve-{key}")
    percent_axes(axes, "coverage: pictures that are answered", "errors among them")
    # A score that is no guide to errors at all would press the others together.
    every = max(risk[-1] for risk in risks.values())
    axes.set_ylim(0, max(0.001, min(1.6 * every, 1.05 * max(risk[rows].max() for risk in risks.values()))))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return figure


@svg
def spectrum(spectra: Mapping[str, tuple[Array, float]]) -> Figure:
    """Singular values of the covariance of ID features, largest first, and the effective rank of each network."""
    figure, axes = one(5.4, 4.3)
    for (name, (values, rank)), colour in zip(spectra.items(), ("accent", "ood0", "ood5", "id", "ood8", "muted"), strict=False):
        axes.plot(np.arange(1, len(values) + 1), values.clip(min=1e-9), color=COLOUR[colour], label=f"{name}  {rank:.0f}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("direction")
    axes.set_ylabel("singular value, the largest as 1")
    axes.set_xlim(1, max(len(values) for values, _ in spectra.values()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="upper right", title="effective rank", alignment="left")
    return figure


def percent_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
