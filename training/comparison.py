"""The report's table, once for each metric: scores down, sets across, every cell shaded by its place in its column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.bundle.evaluation import Evaluation, FullSpectrum, OodSet, Separation

# Field of Separation, what it is called, whether more is better.
METRICS = (
    ("auroc", "AUROC", True),
    ("fpr95_ood_caught", "FPR95, OOD caught", False),
    ("fpr95_id_kept", "FPR95, ID kept", False),
    ("aupr_in", "AUPR, ID", True),
    ("aupr_out", "AUPR, OOD", True),
)
# Four colours of the figures for each group.
PALETTE = {"near": 0, "far": 4, "stand-in": 8}


@dataclass(frozen=True)
class Table:
    """`cells`: score -> one (value, shade) for each column; the shade is 1 for the best of the column and 0 for its worst quarter.

    stars: the columns that lack pictures of the benchmark.
    """

    slug: str
    title: str
    more_is_better: bool
    columns: Sequence[str]
    cells: Mapping[str, Sequence[tuple[float | None, float]]]
    stars: frozenset[str]


def colours(ood_sets: Mapping[str, OodSet]) -> dict[str, str]:
    """Set -> the name of its colour: warm for near, cool for far, muted for stand-ins."""
    counts = dict.fromkeys(PALETTE, 0)
    found = {}
    for name, about in ood_sets.items():
        if about.images:
            found[name] = f"ood{PALETTE[about.group] + counts[about.group] % 4}"
            counts[about.group] += 1
    return found


def shaded(
    slug: str,
    title: str,
    more_is_better: bool,
    columns: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    stars: frozenset[str],
) -> Table:
    numbers = np.array([[np.nan if cell is None else cell for cell in row] for row in values.values()])
    goodness = numbers if more_is_better else -numbers
    shades = np.zeros_like(numbers)
    for column in range(numbers.shape[1]):
        known = goodness[:, column][~np.isnan(goodness[:, column])]
        if len(known):
            # From the lower quartile on, or one score far behind would leave no difference between the others.
            low, high = np.quantile(known, 0.25), known.max()
            shades[:, column] = np.nan_to_num((goodness[:, column] - low) / (high - low) if high > low else 0.0).clip(0, 1)
    cells = {key: list(zip(row, map(float, shade), strict=True)) for (key, row), shade in zip(values.items(), shades, strict=True)}
    return Table(slug, title, more_is_better, columns, cells, stars)


def separation_tables(evaluation: Evaluation, sets: Sequence[str] | Mapping[str, str]) -> list[Table]:
    """One table for each metric: the means of near and far, then every set that is there. The last is the full spectrum's AUROC, if measured."""
    stars, spectrum = evaluation.incomplete(), evaluation.full_spectrum
    kinds = [(field, title, more_is_better, field, evaluation.postprocessors, stars) for field, title, more_is_better in METRICS]
    if spectrum:
        kinds.append(("auroc_full", "AUROC, full spectrum", True, "auroc", spectrum.postprocessors, stars | spectrum.incomplete()))
    found = []
    for slug, title, more_is_better, field, postprocessors, incomplete in kinds:

        def value(entry: Separation | None, field: str = field) -> float | None:
            return None if entry is None else float(getattr(entry, field))

        rows = {key: [value(entry.near), value(entry.far), *(value(entry.sets[name]) for name in sets)] for key, entry in postprocessors.items()}
        found.append(shaded(slug, title, more_is_better, ["near", "far", *sets], rows, incomplete))
    return found


def caught_table(evaluation: Evaluation, sets: Sequence[str] | Mapping[str, str], caught: Mapping[str, Mapping[str, float]], alpha: float) -> Table:
    """The share of each OOD set that is rejected at the threshold for alpha."""
    rows: dict[str, list[float | None]] = {}
    for key, shares in caught.items():
        means = [[shares[name] for name in sets if evaluation.ood_sets[name].group == group] for group in ("near", "far")]
        rows[key] = [*(float(np.mean(mean)) if mean else None for mean in means), *(shares[name] for name in sets)]
    return shaded("caught", f"caught at alpha {100 * alpha:.4g} %", True, ["near", "far", *sets], rows, evaluation.incomplete())


def lost_table(spectrum: FullSpectrum, lost: Mapping[str, Mapping[str, float]], alpha: float) -> Table:
    """The share of each shifted ID set that is rejected at the threshold for alpha."""
    sets = [name for name, about in spectrum.shifted_sets.items() if about.images]
    rows = {key: [shares[name] for name in sets] for key, shares in lost.items()}
    return shaded("lost", f"shifted ID rejected at alpha {100 * alpha:.4g} %", False, sets, rows, spectrum.incomplete())
