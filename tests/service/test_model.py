from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.decision import TooFewCalibrationImages
from service.bundle.manifest import load_bundle
from service.model import AlphaOutOfRange, Model, UnknownPostprocessor, shortest
from service.runtime import Runtime
from service.settings import Settings
from service.verdict import judge


@pytest.fixture(scope="module")
def runtime(models_dir: Path) -> Runtime:
    return Runtime(load_bundle(models_dir / "tiny/1"), "cpu", 1)


def test_the_bundle_decides_what_the_settings_leave_open(runtime: Runtime) -> None:
    choice = Model(runtime, Settings()).choose(None, None)
    assert (choice.postprocessor, choice.column, choice.gate.alpha, choice.gate.guarantee) == ("knn", 2, 0.05, "pac")


def test_settings_go_before_the_bundle_and_a_request_before_settings(runtime: Runtime) -> None:
    model = Model(runtime, Settings(postprocessor="ebo", alpha=0.1, guarantee="marginal"))
    assert (model.default.postprocessor, model.default.gate.alpha, model.default.gate.guarantee) == ("ebo", 0.1, "marginal")
    asked = model.choose("msp", 0.2)
    assert (asked.postprocessor, asked.gate.alpha) == ("msp", 0.2)


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"postprocessor": "vim"}, UnknownPostprocessor),
        ({"shadow_postprocessors": ("vim",)}, UnknownPostprocessor),
        ({"alpha": 0.001}, TooFewCalibrationImages),
        ({"alpha_min": 0.1}, AlphaOutOfRange),
    ],
)
def test_what_cannot_be_promised_is_refused_before_the_first_request(runtime: Runtime, settings: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        Model(runtime, Settings(**settings))


def test_a_score_that_is_no_number_is_rejected(runtime: Runtime) -> None:
    model = Model(runtime, Settings())
    probabilities = np.full((1, 3), 1 / 3, np.float32)
    assert judge(probabilities, np.full((1, 3), np.nan, np.float32), model.default).rejected.tolist() == [True]


def test_equal_probabilities_name_the_first_class(runtime: Runtime) -> None:
    model = Model(runtime, Settings())
    probabilities, scores = np.full((1, 3), 1 / 3, np.float32), np.zeros((1, 3), np.float32)
    answer = model.answer(probabilities, scores, judge(probabilities, scores, model.default), model.default, 3, [None])
    assert [entry["class_id"] for entry in answer["predictions"][0]["top_k"]] == [0, 1, 2]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_form_of_a_float_keeps_its_value_and_order(one: float, other: float) -> None:
    assert np.float32(shortest(np.float32(one))) == np.float32(one)
    assert (shortest(np.float32(one)) > shortest(np.float32(other))) == (np.float32(one) > np.float32(other))
