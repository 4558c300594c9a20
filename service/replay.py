"""`oodgate replay`: captured or any pictures, decided as they are now and as a candidate would; what differs."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from service.bundle.decision import Guarantee
from service.comparison import Compared, Side, page, print_table
from service.model import Model, open_model
from service.scoring import STANDARD_INPUT, NoPictures, Scored, expand, find_folder, score
from service.settings import Settings
from service.verdict import judge


@dataclass(frozen=True)
class Candidate:
    """What differs from what is served now. None: as now. `folder` is a bundle anywhere, `version` one beside that of now."""

    version: int | None = None
    folder: Path | None = None
    postprocessor: str | None = None
    alpha: float | None = None
    guarantee: Guarantee | None = None


@dataclass(frozen=True)
class Output:
    """Where the comparison goes: standard output, as a table or one JSON object per picture, and a page if one is wanted."""

    html: Path | None = None
    json: bool = False


def replay(settings: Settings, version: int | None, candidate: Candidate, paths: list[str], output: Output) -> int:
    """Compares every picture that can be read; 1 when one could not. Raises `scoring.REFUSALS`."""
    changes = {key: value for key in ("postprocessor", "alpha", "guarantee") if (value := getattr(candidate, key)) is not None}
    folder = find_folder(settings, version)
    other = candidate.folder or (folder if candidate.version is None else find_folder(settings, candidate.version))
    if other == folder and not changes:
        raise NoPictures("nothing is to be compared: name a --candidate-version, -bundle, -postprocessor, -alpha or -guarantee")
    now, then = open_model(folder, settings), open_model(other, settings.model_copy(update=changes))
    names = expand(paths)
    if not names or STANDARD_INPUT in names:
        raise NoPictures(f"replay needs files, folders or URLs of pictures; there are none in {', '.join(paths)}")
    unreadable: list[str] = []
    compared = list(compare(now, then, settings, names, unreadable))
    titles = title(now), title(then)
    if output.json:
        for entry in compared:
            print(json.dumps({"filename": entry.name, "change": entry.change, "now": asdict(entry.now), "candidate": asdict(entry.candidate)}))
    else:
        print_table(compared, *titles)
    if output.html is not None:
        try:
            output.html.write_text(page(compared, *titles))
        except OSError as exc:
            print(f"oodgate: {output.html} cannot be written: {exc.strerror}", file=sys.stderr)
            return 1
    return 1 if unreadable else 0


def compare(now: Model, then: Model, settings: Settings, names: list[str], unreadable: list[str]) -> Iterator[Compared]:
    before = list(score(now.runtime, names, settings, unreadable))
    # One graph has every score: another alpha, post-processor or calibration costs no second run.
    same = (now.manifest.sha256["model.onnx"], now.manifest.input) == (then.manifest.sha256["model.onnx"], then.manifest.input)
    after = before if same else list(score(then.runtime, [entry.name for entry in before], settings, unreadable))
    found = {entry.name: entry for entry in after}
    for entry in before:
        if entry.name in found:
            yield Compared(entry.name, side(now, entry), side(then, found[entry.name]))


def side(model: Model, entry: Scored) -> Side:
    verdict = judge(entry.probabilities[None], entry.scores[None], model.default)
    return Side(model.manifest.classes[int(entry.probabilities.argmax())], float(verdict.p_values[0]), bool(verdict.rejected[0]))


def title(model: Model) -> str:
    gate = model.default.gate
    return f"{model.name} version {model.version}, {model.default.postprocessor} at alpha {gate.alpha:g} ({gate.guarantee})"
