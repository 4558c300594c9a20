"""The OOD dashboard without Grafana: each panel's own queries, asked of a Prometheus over a span of time, drawn with matplotlib.

Knows of Grafana's panels what the committed dashboards use: stat, timeseries and heatmap, the units, the legends.
"""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from PIL import Image

from tests.prometheus import filled_in

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent.parent / "deploy/grafana/dashboards").glob("*.json")}
STEPS = 240
INK, FAINT, GRID = "#24292f", "#6e7781", "#e6e8eb"
COLOURS = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#e02f44", "#8a6d3b", "#1f9e9e", "#705da0", "#b7a33f", "#5f6b7a")
Series = tuple[dict[str, str], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def query(prometheus: httpx.Client, expression: str, start: float, end: float) -> list[Series]:
    """Labels, minutes since start, values: of each series."""
    params = {"query": filled_in(expression), "start": start, "end": end, "step": (end - start) / STEPS}
    answer = prometheus.get("/api/v1/query_range", params=params).raise_for_status().json()
    found = []
    for series in answer["data"]["result"]:
        times, values = np.array(series["values"], float).T
        found.append((series["metric"], (times - start) / 60, values))
    return found


def draw(prometheus: httpx.Client, dashboard: dict[str, Any], start: float, end: float, file: Path) -> None:
    """Every panel at its place in the dashboard."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(13, rows * 0.31), dpi=85, facecolor="white")
    left, width, top, height = 0.045, 0.94, 0.99, 0.98
    for panel in panels:
        place = panel["gridPos"]
        # Room for the title above, for the ticks below, and between neighbours.
        x, w = left + width * place["x"] / 24, width * place["w"] / 24 - 0.035
        y, h = top - height * (place["y"] + place["h"]) / rows, height * place["h"] / rows
        axes = figure.add_axes((x, y + 0.013, w, h - 0.031))
        axes.set_title("\n".join(wrapped(panel["title"], 26 if panel["type"] == "stat" else 70)), loc="left", fontsize=8.5, color=INK, weight="bold")
        found = [(target, query(prometheus, target["expr"], start, end)) for target in panel["targets"]]
        {"stat": stat, "timeseries": lines, "heatmap": heatmap}[panel["type"]](axes, panel, found)
        if panel["type"] != "stat":
            axes.set_xlim(0, (end - start) / 60)
            axes.tick_params(labelsize=7, colors=FAINT, length=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{minutes:g} min"))
    buffer = io.BytesIO()
    figure.savefig(buffer)
    # A drawing has few colours.
    Image.open(buffer).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


def wrapped(text: str, width: int) -> list[str]:
    return re.findall(rf".{{1,{width}}}(?:\s+|$)", text)


def shown(value: float, unit: str) -> str:
    """A number as Grafana writes it in this unit."""
    if unit == "percentunit":
        return f"{value:.1%}"
    return f"{value / 86400:.1f} days" if unit == "s" else f"{value:.2f}"


def stat(axes: Axes, panel: dict[str, Any], found: list[tuple[dict[str, Any], list[Series]]]) -> None:
    """The last value of the first series."""
    defaults = panel["fieldConfig"]["defaults"]
    value = found[0][1][0][2][-1]
    named = [mapping["options"][f"{value:g}"] for mapping in defaults.get("mappings", ()) if f"{value:g}" in mapping["options"]]
    text, colour = shown(value, defaults["unit"]), COLOURS[0]
    if named:
        text, colour = named[0]["text"], {"red": "#e02f44", "green": "#299c46"}[named[0]["color"]]
    axes.text(0, 0.45, text, fontsize=17, color=colour, va="center", transform=axes.transAxes)
    axes.axis("off")


def lines(axes: Axes, panel: dict[str, Any], found: list[tuple[dict[str, Any], list[Series]]]) -> None:
    named = [(legend(target["legendFormat"], labels), minutes, values) for target, series in found for labels, minutes, values in series]
    for (name, minutes, values), colour in zip(named, COLOURS * 3, strict=False):
        axes.plot(minutes, values, color=colour, linewidth=1.2, label=name)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.spines["bottom"].set(visible=True, color=GRID)
    if panel["fieldConfig"]["defaults"]["unit"] == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    low, high = axes.get_ylim()
    columns = min(4, len(named))
    # Room for the legend above the lines.
    axes.set_ylim(low, high + (high - low) * 0.13 * math.ceil(len(named) / columns))
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", ncols=columns, labelcolor=INK, handlelength=1.2, columnspacing=1.2)


def heatmap(axes: Axes, _: dict[str, Any], found: list[tuple[dict[str, Any], list[Series]]]) -> None:
    """Buckets are cumulative in the query, as Grafana takes them; here each is its own, per unit of its width."""
    by_bound = sorted(((float(labels["le"]), minutes, values) for labels, minutes, values in found[0][1]), key=lambda series: series[0])
    by_bound = [series for series in by_bound if np.isfinite(series[0])]
    bounds = np.array([0, *(bound for bound, _, _ in by_bound)])
    density = np.diff(np.array([0 * by_bound[0][2], *(values for _, _, values in by_bound)]), axis=0) / np.diff(bounds)[:, None]
    axes.pcolormesh(by_bound[0][1], np.arange(len(bounds)), np.log1p(density)[:, :-1], cmap="Oranges", rasterized=True)
    axes.spines[:].set_visible(False)
    axes.set_yticks(np.arange(len(bounds))[1:], [f"{bound:g}" for bound in bounds[1:]])


def legend(form: str, labels: dict[str, str]) -> str:
    """Without what is the same for all here: one model on one replica."""
    varying = {name: value for name, value in labels.items() if name not in ("model", "instance")}
    return " ".join(re.sub(r"{{\s*(\w+)\s*}}", lambda found: varying.get(found[1], ""), form).split()) or labels.get("model", "")
