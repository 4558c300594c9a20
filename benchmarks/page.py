"""The page of a reproduction, from its numbers alone.

python -m benchmarks.page benchmarks/results/cifar10.json                               # the page beside it
python -m benchmarks.page s0.json s1.json --out benchmarks/results/cifar10.md           # runs of several commands on one page
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.published import PUBLISHED, PUBLISHED_ID, PUBLISHED_SETS
from benchmarks.reproduction import Reproduction, Run, auroc, join, spread
from service.bundle.evaluation import Evaluation, Group
from training.files import write_text

PAPER_WIDTH, PAPER_EPOCHS, PAPER_SEEDS = 64, 100, 3


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def first_line(found: Reproduction) -> str:
    seeds = len({run.seed for run in found.runs})
    size = f"width {found.width}, {found.epochs} epochs, {seeds} seed{'s' * (seeds > 1)}, {found.hardware}"
    if (found.width, found.epochs) == (PAPER_WIDTH, PAPER_EPOCHS) and seeds >= PAPER_SEEDS:
        return f"At the paper's size: {size}."
    return (
        f"**Not at the paper's size: {size}**; the paper's is width {PAPER_WIDTH}, {PAPER_EPOCHS} epochs, {PAPER_SEEDS} seeds, "
        "and is one command away: `make reproduce`."
    )


def partial(found: Reproduction) -> str:
    sets = found.runs[0].best.ood_sets.items()
    unlike = [f"{name} {about.images:,} of {about.expected:,}" for name, about in sets if about.incomplete]
    return f"Not as listed: {'; '.join(unlike)}. The means of their groups (*) do not compare with published ones." if unlike else ""


def chosen(found: Reproduction) -> str:
    """How the hyper-parameters came about, and where a score of ours is not what was published under its name."""
    how = "chosen on OOD validation pictures, as" if found.runs[0].best.search else "each score's defaults, not"
    return (
        f"Hyper-parameters: {how} those of the leaderboard (OpenOOD's APS). `knn` and `relation` compare with prototypes of the training features, "
        "which a graph can hold; published ones with all of them."
    )


def identity(found: Reproduction) -> str:
    rows = []
    for variant in found.variants:
        runs = found.of(variant)
        published = ["–" if value is None else f"{value:.2f}" for value in PUBLISHED_ID.get(variant, (None, None, None))]
        values = [[getattr(run.best, field) for run in runs] for field in ("accuracy", "ece", "ece_scaled", "ece_raw")]
        accuracy, served, scaled, raw = ("–" if None in some else spread(some) for some in values)
        minutes = f"{statistics.mean(run.seconds for run in runs) / 60:.1f}"
        rows.append([f"`{variant}`", accuracy, published[0], served, scaled, published[2], raw, published[1], minutes])
    headings = ["loss", "accuracy", "published", "ECE as served", "of softmax(f / D(z))", "published", "of softmax(f)", "published", "minutes a run"]
    return table(headings, rows)


def essentials(found: Reproduction) -> str:
    """What the README shows of it: accuracy, calibration, MSP, and the score with the best mean of near and far."""

    def beside(ours: str, published: float | None) -> str:
        return ours if published is None else f"{ours} ({published:.2f})"

    rows = []
    for variant in found.variants:
        runs = found.of(variant)
        near, far = PUBLISHED.get(variant, {}).get("msp", (None, None))
        best = max(found.keys, key=lambda key: statistics.mean(auroc(run.best, key, "both") for run in runs))
        rows.append(
            [
                f"`{variant}`",
                beside(spread([run.best.accuracy for run in runs]), PUBLISHED_ID.get(variant, (None,))[0]),
                spread([run.best.ece for run in runs]),
                beside(spread([auroc(run.best, "msp", "near") for run in runs]), near),
                beside(spread([auroc(run.best, "msp", "far") for run in runs]), far),
                f"`{best}` {' / '.join(spread([auroc(run.best, best, group) for run in runs]) for group in ('near', 'far'))}",
            ]
        )
    near_name, far_name = starred(found, "near"), starred(found, "far")
    headings = ["loss", "accuracy", "ECE as served", f"{near_name} AUROC, MSP", f"{far_name} AUROC, MSP", f"best score, {near_name} / {far_name}"]
    return f"{first_line(found)} Published in brackets. {partial(found)}\n\n{table(headings, rows)}"


def starred(found: Reproduction, group: Group) -> str:
    """The group's name, with a star where its mean lacks pictures."""
    return group + "*" * (group in found.runs[0].best.incomplete())


def sets(found: Reproduction, variant: str) -> str:
    """Each set by itself, stand-ins too: the one figure that does not depend on which sets are at hand."""
    runs, published = found.of(variant), PUBLISHED_SETS.get(variant, {})
    rows = []
    for name, about in runs[0].best.ood_sets.items():
        if not about.images:
            continue

        def ours(key: str, measure: str = "auroc", name: str = name) -> list[float]:
            return [getattr(run.best.postprocessors[key].sets[name], measure) for run in runs]

        best = max(found.keys, key=lambda key: statistics.mean(ours(key)))
        count = f"{about.images:,}" + (f" of {about.expected:,}" if about.incomplete else "")
        measured = [spread(ours("msp")), spread(ours("msp", "fpr95_id_kept")), f"`{best}` {spread(ours(best))}"]
        rows.append([f"{name} ({about.group})", count, *measured, f"{published[name]:.2f}" if name in published else "–"])
    return table(["set", "pictures", "AUROC, MSP", "FPR95 (ID kept), MSP", "best score, AUROC", "published"], rows)


def groups(found: Reproduction, variant: str) -> str:
    runs, published = found.of(variant), PUBLISHED.get(variant, {})
    rows = []
    for key in found.keys:
        near, far = published.get(key, (None, None))
        ours = [spread([auroc(run.best, key, group) for run in runs]) for group in ("near", "far")]
        rows.append([f"`{key}`", ours[0], "–" if near is None else f"{near:.2f}", ours[1], "–" if far is None else f"{far:.2f}"])
    return table(["score", starred(found, "near"), "published", starred(found, "far"), "published"], rows)


def differences(name: str, one: Sequence[Run], other: Sequence[Run], measures: Sequence[tuple[str, Callable[[Run], float]]]) -> list[list[str]]:
    """Rows of paired differences, seed by seed."""
    seeds = {run.seed: run for run in other}
    pairs = [(run, seeds[run.seed]) for run in one if run.seed in seeds]
    return [[name, what, spread([value(a) - value(b) for a, b in pairs]), str(len(pairs))] for what, value in measures]


def questions(found: Reproduction) -> str:
    """What the paper leaves open, as differences in percentage points between runs of the same seed."""

    def measures(pick: Callable[[Run], Evaluation]) -> list[tuple[str, Callable[[Run], float]]]:
        return [
            ("accuracy", lambda run: pick(run).accuracy),
            ("near, MSP", lambda run: auroc(pick(run), "msp", "near")),
            ("far, MSP", lambda run: auroc(pick(run), "msp", "far")),
        ]

    usual = found.of("elogitnorm")
    rows = []
    for variant, name in (("elogitnorm-others", "mean over C - 1 instead of C"), ("elogitnorm-detached", "head distances detached")):
        if found.of(variant) and usual:
            rows += differences(name, found.of(variant), usual, measures(lambda run: run.best))
        else:
            rows.append([name, f"not run: `--losses elogitnorm {variant}`", "", ""])
    for variant in found.variants:
        runs = found.of(variant)
        swapped = [run.model_copy(update={"best": run.last}) for run in runs]
        rows += differences(f"last instead of best checkpoint, `{variant}`", swapped, runs, measures(lambda run: run.best))
    if {"msp", "knn", "msp_knn"} <= set(found.keys):
        for variant in found.variants:
            for part in ("msp", "knn"):
                for group in ("near", "far", "both"):
                    gains = [auroc(run.best, "msp_knn", group) - auroc(run.best, part, group) for run in found.of(variant)]
                    rows.append([f"`msp_knn` instead of `{part}`, `{variant}`", group, spread(gains), str(len(gains))])
    return table(["question", "of", "difference", "seeds"], rows)


def best_scores(found: Reproduction) -> str:
    rows = []
    for variant in found.variants:
        runs = found.of(variant)
        for group in ("near", "far", "both"):
            ranked = sorted(found.keys, key=lambda key: -statistics.mean(auroc(run.best, key, group) for run in runs))[:3]
            rows.append([f"`{variant}`", group, *(f"`{key}` {spread([auroc(run.best, key, group) for run in runs])}" for key in ranked)])
    return table(["loss", "AUROC", "first", "second", "third"], rows)


def page(found: Reproduction) -> str:
    commands = " and ".join(f"`{line}`" for line in found.command.splitlines())
    parts = [
        first_line(found),
        "# CIFAR-10, loss by loss",
        f"Written by {commands}, code {found.code_version}. Numbers in %, mean ± standard deviation (n - 1) over seeds; OOD is positive.",
        partial(found),
        chosen(found),
        "Trained on all 50,000 pictures with OpenOOD v1.5's split: 1,000 test pictures chose the checkpoint, the other 9,000 are the ID test set. "
        "Published: OpenOOD v1.5's leaderboard for `ce` and `logitnorm`, arXiv 2504.11434 for `elogitnorm` (its accuracy after 200 epochs; "
        "set by set without the score's name, most likely the best one of each).",
        identity(found),
        *(text for variant in found.variants for text in (f"## `{variant}`", groups(found, variant), sets(found, variant))),
        "## What was open",
        "In percentage points, between runs of the same seed.",
        questions(found),
        "## Which score is the best default",
        f"`both` is the mean of {starred(found, 'near')} and {starred(found, 'far')}.",
        best_scores(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(found: Reproduction, file: Path) -> None:
    """The page, and its numbers beside it as JSON."""
    write_text(file.with_suffix(".json"), found.model_dump_json(indent=1) + "\n")
    write_text(file, page(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="+", help="JSON that `benchmarks.reproduce` wrote")
    parser.add_argument("--out", type=Path, help="the page; default: beside the first")
    arguments = parser.parse_args()
    try:
        found = join([Reproduction.model_validate_json(file.read_bytes()) for file in arguments.numbers])
    except (OSError, ValueError) as exc:
        sys.exit(f"page: {exc}")
    write(found, arguments.out or arguments.numbers[0].with_suffix(".md"))


if __name__ == "__main__":
    main()
