"""An evaluation on the terminal: AUROC per set, the means, and both FPR95s. What is incomplete has a star."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from service.bundle.evaluation import Evaluation, PostprocessorEvaluation

COLUMNS = 10
METRICS = (("mean", "auroc"), ("FPR95, OOD caught", "fpr95_ood_caught"), ("FPR95, ID kept", "fpr95_id_kept"))


def print_evaluation(evaluation: Evaluation) -> None:
    """The tables of one evaluation: standard, and full-spectrum where there are shifted sets."""
    console = Console()
    if console.width < 110:  # a pipe has no width of its own, and numbers must not be cut
        console = Console(width=110)
    partial = f" (partial: {evaluation.id_expected} expected)" if evaluation.id_expected not in (None, evaluation.id_images) else ""
    console.print(
        f"{evaluation.id_images} ID pictures{partial}: accuracy {evaluation.accuracy:.2%}, "
        f"ECE {evaluation.ece:.2%} as served, {evaluation.ece_raw:.2%} of softmax(f)"
        + (f", {evaluation.ece_scaled:.2%} of softmax(f / D(z))" if evaluation.ece_scaled is not None else "")
    )
    print_separations(console, evaluation, evaluation.postprocessors, "AUROC in %, OOD positive", evaluation.incomplete())
    spectrum = evaluation.full_spectrum
    if spectrum is None:
        return
    parts = []
    for name, about in spectrum.shifted_sets.items():
        parts.append(f"{name}{'*' * about.incomplete} {about.images}" + (f" ({about.accuracy:.2%})" if about.accuracy is not None else " (absent)"))
    console.print(f"full spectrum: accuracy {spectrum.accuracy:.2%} with the shifted sets as ID: {', '.join(parts)}")
    print_separations(console, evaluation, spectrum.postprocessors, "AUROC in %, full spectrum", evaluation.incomplete() | spectrum.incomplete())


def print_separations(
    console: Console, evaluation: Evaluation, postprocessors: Mapping[str, PostprocessorEvaluation], title: str, stars: frozenset[str]
) -> None:
    every = list(postprocessors) if evaluation.ood_sets else []
    for keys in (every[i : i + COLUMNS] for i in range(0, len(every), COLUMNS)):
        console.print(separations(evaluation, {key: postprocessors[key] for key in keys}, title, stars))


def separations(evaluation: Evaluation, postprocessors: Mapping[str, PostprocessorEvaluation], title: str, stars: frozenset[str]) -> Table:
    """One row a set, three a group; stars: names of the sets and groups that are incomplete."""
    table = Table(title=title, caption="* a partial set, or a mean that lacks pictures of the benchmark" if stars else None, box=SIMPLE_HEAD)
    table.add_column("OOD set")
    for key in postprocessors:
        table.add_column(key, justify="right")
    for name, about in evaluation.ood_sets.items():
        if about.images:
            cells = [percent(entry.sets[name].auroc) for entry in postprocessors.values()]
            table.add_row(f"{name}{'*' * (name in stars)} ({about.group})", *cells)
    table.add_section()
    for group in ("near", "far"):
        for label, metric in METRICS:
            means = [getattr(entry, group) for entry in postprocessors.values()]
            cells = [percent(getattr(mean, metric) if mean else None) for mean in means]
            table.add_row(f"{group}{'*' * (group in stars)} {label}", *cells)
    return table


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f}"
