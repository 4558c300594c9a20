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
    own = open_source(recipe.validation, "train") if recipe.validation else open_source(recipe.data, "val")
    if own is not None:
        check_same_classes(own, train, "validation")
        check_apart(own, train)
    test = open_source(recipe.data, "test")
    if test is not None:
        check_same_classes(test, train, "test")
    rest, held = hold_out(train.labels, recipe.calibration_share, recipe.calibration_limit, recipe.seed)
    calibration, train = train.subset(held), train.subset(rest)
    if own is None:
        rest, held = hold_out(train.labels, recipe.validation_share, recipe.validation_limit, recipe.seed)
        validation, train = train.subset(held), train.subset(rest)
    else:
        validation = own
    check_classes(validation, f"the validation part of {recipe.data}")
    check_classes(train, f"the training part of {recipe.data}")
    return Parts(train, validation, calibration, test)


def check_same_classes(part: Source, train: Source, name: str) -> None:
    if part.classes == train.classes:
        return
    without, extra = (sorted(set(one) - set(other))[:5] for one, other in ((train.classes, part.classes), (part.classes, train.classes)))
    differences = [f"{word} {', '.join(classes)}" for word, classes in (("without", without), ("with", extra)) if classes]
    raise TrainingError(f"the {name} part has other classes than training: {' and '.join(differences) or 'in another order'}")


def check_apart(validation: Source, train: Source) -> None:
    chosen = {validation.name(i) for i in range(len(validation))}
    for i in range(len(train)):
        if train.name(i) in chosen:
            raise TrainingError(f"{train.name(i)} is in the training data and in the validation set")
