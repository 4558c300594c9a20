import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import build_parser, main
from training.config import Recipe

FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def test_every_field_of_a_recipe_is_a_flag_with_the_recipes_default() -> None:
    given = vars(build_parser().parse_args(["train", "--data", "set"]))
    assert Recipe(**{name: given[name] for name in FIELDS}) == Recipe(data="set")


def test_flags_arrive_in_the_recipe_with_their_types() -> None:
    words = ["--data", "set", "--validation", "other", "--loss", "ce", "--epochs", "3", "--lr", "0.5", "--compile", "--augmentation", "none"]
    given = vars(build_parser().parse_args(["train", *words, "--out", "runs/x"]))
    expected = Recipe(data="set", validation="other", loss="ce", epochs=3, lr=0.5, compile=True, augmentation="none")
    assert Recipe(**{name: given[name] for name in FIELDS}) == expected
    assert given["out"] == Path("runs/x")


@pytest.mark.parametrize("words", [["--loss", "hinge"], ["--network", "vgg"], ["--precision", "fp8"], ["--augmentation", "mixup"], ["--epochs", "x"]])
def test_a_word_that_is_not_allowed_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["train", "--data", "set", *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_value_that_is_not_allowed_is_told_without_waiting_for_torch() -> None:
    words = ["train", "--data", "set", "--network", "airbench_32x32", "--width", "16"]
    code = f"import sys; sys.modules['torch'] = None; from training.__main__ import main; main({words})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr == "oodgate-training: width is 16, allowed is at least 24 for airbench_32x32\n"


def test_help_explains_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in FIELDS.items():
        assert "--" + name.replace("_", "-") in shown
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"(default {field.default})" in shown


def test_a_preset_changes_the_defaults_and_flags_change_the_preset_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Recipe] = []
    monkeypatch.setattr("training.train.train", lambda recipe, *_: recipes.append(recipe) or 0.0)
    main(["train", "--epochs", "2", "--preset", "imagenet1k", "--data", "set", "--no-pretrained"])
    main(["train", "--data", "set"])
    assert recipes[0] == Recipe(data="set", network="resnet50_224x224", epochs=2, batch_size=256, lr=0.001, calibration_share=0)
    assert recipes[1] == Recipe(data="set")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "run", "--alpha", "0"], "--alpha: 0 is not between 0 and 1"),
        (["report", "run", "--delta", "1"], "--delta: 1 is not between 0 and 1"),
        (["export", "run", "--name", "a", "--alpha", "nan"], "--alpha: nan is not between 0 and 1"),
        (["export", "run", "--name", "a", "--version", "-3"], "--version: -3 is not a whole number from 1 on"),
        (["export", "run", "--name", "../x"], "--name: '../x' is not a name of a-z 0-9"),
    ],
)
def test_what_no_bundle_can_have_is_a_usage_error(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
