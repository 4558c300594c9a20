"""That a run's thresholds rest on pictures which no network before it was trained on, and its own was not."""

from pathlib import Path

import torch
from torch import Tensor

from training.checkpoint import Trained, load_trained
from training.config import Recipe, TrainingError
from training.features import FeatureCache
from training.parts import Parts, open_parts, places
from training.sources import Source

UNTOLD = "whether it was trained on what is set aside for calibration cannot be told"


def trained_parts(trained: Trained) -> Parts:
    """The parts of a run. TrainingError if pictures have come or gone since: another draw would set aside some that were trained on."""
    parts = open_parts(trained.recipe)
    if parts.digest() != trained.parts_digest:
        raise TrainingError(
            f"the pictures of {trained.recipe.data} are not those that the run was trained with: some have come, gone or changed their class, "
            "so what is set aside for calibration now may have been trained on; put them back, or train anew"
        )
    return parts


def load_initial(recipe: Recipe, parts: Parts) -> Trained:
    """The network that a recipe goes on from, if it fits and has not seen this recipe's calibration part."""
    initial = load_trained(Path(str(recipe.initial)))
    for name in ("network", "width"):
        theirs, ours = getattr(initial.recipe, name), getattr(recipe, name)
        if theirs != ours:
            raise TrainingError(f"{recipe.initial} was trained with {name} {theirs}, it can only go on with the same, not {ours}")
    if initial.classes != parts.train.classes:
        raise TrainingError(f"{recipe.initial} was trained on other classes than {recipe.data} has")
    if len(parts.calibration):
        check_unseen(str(recipe.initial), initial, parts.calibration)
    return initial


def check_unseen(run: str, trained: Trained, calibration: Source) -> None:
    """Also by the runs that it went on from. What lies elsewhere by now cannot be looked through, and is told."""
    try:
        theirs = open_parts(trained.recipe)
    except TrainingError as exc:
        print(f"{run}: {UNTOLD}: {exc}")
    else:
        refuse_seen(run, trained, theirs, calibration)
    if before := trained.recipe.initial:
        try:
            ancestor = load_trained(Path(before))
        except TrainingError as exc:
            print(f"{before}: {UNTOLD}: {exc}")
            return
        check_unseen(before, ancestor, calibration)


def refuse_seen(run: str, trained: Trained, theirs: Parts, calibration: Source) -> None:
    changed = theirs.digest() != trained.parts_digest
    # Of a folder that has changed since, each picture may have been in any part.
    seen = {*places(theirs.train), *places(theirs.validation), *(places(theirs.calibration) if changed else ())}
    if again := [place for place in places(calibration) if place in seen]:
        why = f"the pictures of {trained.recipe.data} have changed since, so {run} may have been" if changed else f"{run} was"
        raise TrainingError(
            f"{why} trained on {len(again)} of the {len(calibration)} calibration pictures, on {again[0]} among them: with the same data, seed, "
            "calibration_share and calibration_limit it was not, or name pictures that it has not seen with --calibration"
        )


def tell_copies(parts: Parts, cache: FeatureCache) -> None:
    """Says how many calibration pictures were trained on under another name: the network knows them better than those that will come."""
    found = copies(cache.outputs("train", parts.train).features, cache.outputs("calibration", parts.calibration).features)
    if found:
        held, seen = found[0]
        print(
            f"{len(found)} of {len(parts.calibration)} calibration pictures are copies of training pictures, {parts.calibration.name(held)} of "
            f"{parts.train.name(seen)} for one: the promise is about pictures as new as these are, so take copies out, or give --calibration"
        )


def copies(seen: Tensor, held: Tensor, tolerance: float = 1e-3) -> list[tuple[int, int]]:
    """Which rows of held (n, D) are rows of seen (N, D), to `tolerance` of their length: (row of held, row of seen) of each that is."""
    # Along any direction copies lie side by side, and few others between them.
    direction = torch.nn.functional.normalize(torch.randn(seen.shape[1], generator=torch.Generator().manual_seed(0)), dim=0)
    along, order = (seen @ direction).sort()
    reach = tolerance * held.norm(dim=1)
    first, last = (torch.searchsorted(along, held @ direction + way * reach, right=way > 0) for way in (-1, 1))
    found = []
    for row in (last > first).nonzero().flatten().tolist():
        near = order[int(first[row]) : int(last[row])]
        distances = (seen[near] - held[row]).norm(dim=1)
        if distances.min() <= reach[row]:
            found.append((row, int(near[distances.argmin()])))
    return found
