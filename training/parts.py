"""The three disjoint parts of an ID set: train, validation (which checkpoint), calibration (which threshold)."""

import hashlib
import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.config import LossName, Recipe, TrainingError
from training.networks import PRETRAINED_CLASSES
from training.sources import Source, open_source


@dataclass(frozen=True)
class Parts:
    """Nothing here has been decoded. `test` is None where the data has none; a calibration share of 0 leaves that part empty."""

    train: Source
    validation: Source
    calibration: Source
    test: Source | None

    def digest(self) -> str:
        """Says whether pictures that are trained with have come, gone or changed class since, by their names (of Parquet, by row); the same wherever
        the data lies. What is set aside is all that is left.
        """
        known = hashlib.sha256()
        for part in (self.train, self.validation):
            there = places(part)
            above = len(os.path.commonpath(there)) if there else 0
            known.update("\n".join([str(len(there)), *(place[above:] for place in there), *map(str, part.labels)]).encode(errors="surrogateescape"))
        return known.hexdigest()


def open_parts(recipe: Recipe) -> Parts:
    """The same parts for the same recipe, whoever asks: training, and later calibration, which must not overlap.

    The calibration part is taken from the training pictures, unless the recipe names it. So is validation, unless the
    recipe names it or the data brings its own.
    """
    train = open_source(recipe.data, "train")
    if train is None:
        raise TrainingError(f"{recipe.data} has no training pictures")
    if not train.classes:
        # An image list of a flat folder has numbers only.
        train = replace(train, classes=tuple(map(str, range(int(train.labels.max()) + 1))))
    check_classes(train, recipe.data)
    own = open_source(recipe.validation, "train") if recipe.validation else open_source(recipe.data, "val")
    if own is not None:
        own = own if own.classes else replace(own, classes=train.classes)
        check_same_classes(own, train, "validation")
        check_apart(own, train, "in the training data and in the validation set")
    test = open_source(recipe.data, "test")
    if test is not None:
        check_same_classes(test, train, "test")
    if recipe.calibration:
        calibration = open_calibration(recipe.calibration, train)
        if own is not None:
            check_apart(own, calibration, "in the validation set and in the calibration set")
    else:
        rest, held = set_aside(train.labels, recipe.calibration_share, recipe.calibration_limit, recipe.seed)
        calibration, train = train.subset(held), train.subset(rest)
    if own is None:
        rest, held = hold_out(train.labels, recipe.validation_share, recipe.validation_limit, recipe.seed)
        validation, train = train.subset(held), train.subset(rest)
    else:
        validation = own
    check_classes(validation, f"the validation part of {recipe.data}")
    check_classes(train, f"the training part of {recipe.data}")
    return Parts(train, validation, calibration, test)


def open_calibration(where: str, train: Source) -> Source:
    found = open_source(where, "train")
    if found is None:
        raise TrainingError(f"{where} has no pictures to calibrate with")
    found = found if found.classes else replace(found, classes=train.classes)
    check_same_classes(found, train, "calibration")
    check_apart(found, train, "in the training data and in the calibration set")
    return found


def calibration_data(recipe: Recipe, count: int) -> str:
    """What a bundle says that its thresholds rest on."""
    if recipe.calibration:
        return f"{count} pictures of {recipe.calibration}"
    return f"{count} held-out training pictures of {recipe.data}, stratified by class, seed {recipe.seed}"


def check_same_classes(part: Source, train: Source, name: str) -> None:
    if part.classes == train.classes:
        return
    without, extra = (sorted(set(one) - set(other))[:5] for one, other in ((train.classes, part.classes), (part.classes, train.classes)))
    differences = [f"{word} {', '.join(classes)}" for word, classes in (("without", without), ("with", extra)) if classes]
    raise TrainingError(f"the {name} part has other classes than training: {' and '.join(differences) or 'in another order'}")


def without(source: Source, other: Source) -> Source:
    """The pictures of a set that are not of the other one."""
    there = {*places(other)}
    return source.subset(np.array([i for i, place in enumerate(places(source)) if place not in there], np.int64))


def places(source: Source) -> list[str]:
    """The pictures' names, the same for the same picture however its folder is spelt."""
    return [os.path.abspath(source.name(i)) for i in range(len(source))]  # noqa: PTH100 -- resolve() asks the disk, a million times for ImageNet


def check_apart(one: Source, other: Source, where: str) -> None:
    there = {*places(one)}
    for i, place in enumerate(places(other)):
        if place in there:
            raise TrainingError(f"{other.name(i)} is {where}")


def check_classes(source: Source, where: str) -> None:
    """Refuses what cannot be learnt: fewer than two classes, a picture without a label, a class with no picture."""
    if len(source.classes) < 2:
        raise TrainingError(f"{where} has {len(source.classes)} classes, at least 2 are needed")
    unlabelled = np.flatnonzero((source.labels < 0) | (source.labels >= len(source.classes)))
    if len(unlabelled):
        raise TrainingError(f"{source.name(int(unlabelled[0]))} has no label")
    empty = np.flatnonzero(np.bincount(source.labels, minlength=len(source.classes)) == 0)
    if len(empty):
        raise TrainingError(f"class {source.classes[empty[0]]!r} has no picture in {where}")


def check_loss(loss: LossName, classes: int) -> None:
    """Refuses ELogitNorm for two classes: D(z) is the one gap over a constant, so f / D(z) knows its sign alone and nothing is learnt."""
    if loss == "elogitnorm" and classes == 2:
        raise TrainingError(
            "elogitnorm cannot learn 2 classes, it needs at least 3: it divides the gap between the two logits by itself, "
            "so every picture gets the same probability; train with --loss ce or --loss logitnorm"
        )


def check_pretrained(recipe: Recipe, classes: int) -> None:
    """Refuses to set aside what the weights that are begun with were trained on: then no threshold would keep its promise."""
    if recipe.pretrained and classes == PRETRAINED_CLASSES and recipe.calibration is None and recipe.calibration_share > 0:
        raise TrainingError(
            f"calibration_share is {recipe.calibration_share:g}, but torchvision's weights for {classes} classes were trained on all training "
            "pictures of ImageNet: name others with --calibration, or give --calibration-share 0"
        )


def set_aside(labels: NDArray[np.int64], share: float, limit: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows kept and rows for calibration: of each class the same share, at most `limit` in all, by seed.

    What is left over of one class counts for the next. One picture of each at least would give small classes more than their share,
    and thresholds for other pictures than those that come.
    """
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    ends = np.cumsum([0, *(min(share, limit / len(labels)) * len(rows) for rows in classes)])
    return draw(labels, classes, np.diff(np.floor(ends + 0.5)).astype(np.int64), seed)


def hold_out(labels: NDArray[np.int64], share: float, limit: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows kept and rows for validation: of each class the same share, at most `limit` in all but at least one each, by seed."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = np.array([min(share, limit / len(labels)) * len(rows) for rows in classes])
    counts = np.maximum(1, (wanted + 0.5).astype(np.int64))
    while counts.sum() > max(limit, len(classes)):
        counts[np.argmax(np.where(counts > 1, counts - wanted, -np.inf))] -= 1
    return draw(labels, classes, counts, seed)


def draw(
    labels: NDArray[np.int64], classes: list[NDArray[np.int64]], counts: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    out = np.sort(np.concatenate([generator.permutation(rows)[:count] for rows, count in zip(classes, counts, strict=True)]))
    return np.setdiff1d(np.arange(len(labels)), out), out
