"""`oodgate predict`: files and folders, answered as the server would, or flagged together at a false discovery rate."""

import os
import sys
from typing import Literal, Protocol

import numpy as np
from pydantic_core import to_json
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service.bundle.decision import flag_by_fdr, images_needed_for_fdr, p_values
from service.model import Model, open_model, shortest
from service.schemas import Answer, Flag
from service.scoring import NoPictures, expand, find_folder, score
from service.settings import Settings
from service.verdict import judge

Output = Literal["table", "json"]


class Writer(Protocol):
    """Takes answers or flags, one by one, and is closed."""

    def add(self, found: Answer | Flag) -> None: ...

    def close(self, summary: str) -> None: ...


def predict(settings: Settings, paths: list[str], version: int | None, top_k: int | None, fdr: float | None, output: Output) -> int:
    """Answers every picture that can be; 1 when one could not. Raises `scoring.REFUSALS`."""
    names, unreadable = expand(paths), list[str]()
    if not names:
        raise NoPictures(f"{', '.join(paths)}: no pictures there")
    model = open_model(find_folder(settings, version), settings)
    write: Writer = JsonLines() if output == "json" else PrettyTable()
    if fdr is None:
        choice, top_k = model.default, model.check_top_k(top_k)
        for found in score(model.runtime, names, settings, unreadable):
            probabilities, scores = found.probabilities[None], found.scores[None]
            write.add(model.answer(probabilities, scores, judge(probabilities, scores, choice), choice, top_k, [printable(found.name)]))
        write.close(f"{model.name} version {model.version}, {choice.postprocessor} at alpha {choice.gate.alpha:g} ({choice.gate.guarantee})")
    else:
        flags = flag(model, names, settings, fdr, unreadable)
        for entry in flags:
            write.add(entry)
        count = sum(entry.flagged for entry in flags)
        write.close(
            f"{model.name} version {model.version}, {model.default.postprocessor}: {count} of {len(flags)} flagged; "
            f"on average at most {fdr:.4g} of what is flagged is fine"
        )
    return 1 if unreadable else 0


def flag(model: Model, names: list[str], settings: Settings, fdr: float, unreadable: list[str]) -> list[Flag]:
    """All pictures judged together, by p-values from one calibration set: the pooled one. Raises NoPictures when n is too small for so many."""
    calibration, key = model.default.calibration, model.default.postprocessor
    if (needed := images_needed_for_fdr(len(names), fdr)) > len(calibration):
        most = int(fdr * (len(calibration) + 1) + 1e-9)
        raise NoPictures(
            f"fdr {fdr:g} over {len(names)} pictures needs at least {needed} calibration images, {model.name} version {model.version} has "
            f"{len(calibration)}, enough for {most} pictures at once; calibrate with more, or ask for a larger fdr"
        )
    found = list(score(model.runtime, names, settings, unreadable))
    values = p_values(calibration, np.array([entry.scores[model.default.column] for entry in found], np.float32))
    flags = []
    for entry, p_value, flagged in zip(found, values.tolist(), flag_by_fdr(values, fdr).tolist(), strict=True):
        class_id = int(entry.probabilities.argmax())
        flags.append(
            Flag(
                model=model.name,
                version=model.version,
                postprocessor=key,
                fdr=fdr,
                filename=printable(entry.name),
                label=model.manifest.classes[class_id],
                class_id=class_id,
                probability=shortest(entry.probabilities[class_id]),
                p_value=p_value,
                flagged=flagged,
            )
        )
    return flags


def printable(name: str) -> str:
    """A file name may hold bytes that are no text, which neither JSON nor a terminal takes."""
    return os.fsencode(name).decode(errors="replace")


class JsonLines:
    """One per line, an answer as the server would give it, with the path as file name."""

    def add(self, found: Answer | Flag) -> None:
        print(to_json(found).decode())

    def close(self, summary: str) -> None:  # noqa: ARG002 -- every line says it
        sys.stdout.flush()


class PrettyTable:
    """A table at the end, its columns as wide as they need to be."""

    def __init__(self) -> None:
        self.table = Table(Column("picture", overflow="fold"), "label", "probability", "p-value", "decision")

    def add(self, found: Answer | Flag) -> None:
        if isinstance(found, Flag):
            name, label, probability, p_value = found.filename, found.label, found.probability, found.p_value
            decision = "[red]flagged" if found.flagged else ""
        else:
            entry = found["predictions"][0]
            name, label, probability, p_value = str(entry["filename"]), entry["label"], entry["probability"], entry["ood"]["p_value"]
            decision = "[red]rejected" if entry["ood"]["rejected"] else "accepted"
        self.table.add_row(escape(name), escape(label), f"{probability:.3f}", f"{p_value:.3f}", decision)

    def close(self, summary: str) -> None:
        self.table.caption = escape(summary)
        # Rich takes a file or a pipe for 80 columns wide, which would cut paths to pieces.
        Console(width=None if sys.stdout.isatty() else 200).print(self.table)
