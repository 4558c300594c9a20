from training.comparison import shaded


def shades(more_is_better: bool, *column: float | None) -> list[float]:
    table = shaded("slug", "title", more_is_better, ["set"], {f"score{i}": [value] for i, value in enumerate(column)}, frozenset())
    return [cells[0][1] for cells in table.cells.values()]


def test_the_best_of_a_column_is_darkest_and_its_worst_quarter_white() -> None:
    assert shades(True, 0.0, 0.5, 0.625, 0.75, 1.0) == [0.0, 0.0, 0.25, 0.5, 1.0]
    assert shades(False, 1.0, 0.5, 0.375, 0.25, 0.0) == [0.0, 0.0, 0.25, 0.5, 1.0]


def test_a_column_without_differences_or_values_is_white() -> None:
    assert shades(True, 0.5, 0.5) == [0.0, 0.0]
    assert shades(True, None, None) == [0.0, 0.0]
    assert shades(True, None, 0.25, 0.75)[0] == 0.0
