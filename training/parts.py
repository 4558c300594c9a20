"""The three disjoint parts of an ID set: train, validation (which checkpoint), calibration (which threshold)."""

from dataclasses import dataclass

from training.config import Recipe, TrainingError
from training.data import Source, check_classes, hold_out, open_source


@dataclass(frozen=True)
class Parts:
    """Nothing here has been decoded. `test` is None where the data has none."""

    train: Source
    validation: Source
    calibration: Source
    test: Source | None


def open_parts(recipe: Recipe) -> Parts:
    """The same parts for the same recipe, whoever asks: training, and later calibration, which must not overlap.

    The calibration part is always taken from the training pictures. So is validation, unless the recipe names it or the
    data brings its own.
    """
    train = open_source(recipe.data, "train")
    if train is None:
        raise TrainingError(f"{recipe.data} has no training pictures")
    check_classes(train, recipe.data)
    rest, held = hold_out(train.labels, recipe.calibration_share, recipe.calibration_limit, recipe.seed)
    calibration = train.subset(held)
    train = train.subset(rest)
    validation = open_source(recipe.validation, "train") if recipe.validation else open_source(recipe.data, "val")
    if validation is None:
        rest, held = hold_out(train.labels, recipe.validation_share, recipe.validation_limit, recipe.seed)
        validation = train.subset(held)
        train = train.subset(rest)
    for name, part in (("validation", validation), ("training", train)):
        if part.classes != train.classes:
            raise TrainingError(f"{name} has other classes than training: {part.classes[:5]} … and {train.classes[:5]} …")
        check_classes(part, f"the {name} part of {recipe.data}")
    return Parts(train, validation, calibration, open_source(recipe.data, "test"))
