from pathlib import Path

import pytest

from service.bundle.evaluation import FullSpectrum, ShiftedSet
from service.bundle.manifest import load_bundle
from training.tables import print_evaluation


def test_the_table_marks_partial_sets_and_incomplete_means(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = load_bundle(bundle_folder).evaluation
    short = {"mixtures": evaluation.ood_sets["mixtures"].model_copy(update={"expected": 61})}
    print_evaluation(evaluation.model_copy(update={"ood_sets": short}))
    said = capsys.readouterr().out
    assert "mixtures* (far)" in said
    assert "* a partial set" in said
    assert "far* mean" in said
    assert "near mean" in said


def test_stars_are_explained_only_where_one_stands(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(load_bundle(bundle_folder).evaluation)
    assert "*" not in capsys.readouterr().out


def test_a_partial_id_set_marks_every_mean(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = load_bundle(bundle_folder).evaluation
    print_evaluation(evaluation.model_copy(update={"id_expected": evaluation.id_images + 1}))
    said = capsys.readouterr().out
    assert f"(partial: {evaluation.id_images + 1} expected)" in said
    assert "near* mean" in said
    assert "far* mean" in said
    assert "mixtures (far)" in said


def test_the_full_spectrum_has_a_table_that_names_what_is_absent(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = load_bundle(bundle_folder).evaluation
    shifted = {"imagenet-v2": ShiftedSet(images=0, expected=2000), "imagenet-r": ShiftedSet(images=30_000, expected=30_000, accuracy=0.5)}
    spectrum = FullSpectrum(accuracy=0.75, shifted_sets=shifted, postprocessors=evaluation.postprocessors)
    print_evaluation(evaluation.model_copy(update={"full_spectrum": spectrum}))
    standard, _, full = capsys.readouterr().out.partition("full spectrum: accuracy 75.00%")
    assert "imagenet-v2* 0 (absent), imagenet-r 30000 (50.00%)" in " ".join(full.split())
    assert "far* mean" in full
    assert "far mean" in standard
