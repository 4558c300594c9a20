from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle.decision import images_needed, open_gate
from service.bundle.manifest import MANIFEST, find_versions, load_bundle
from service.runtime import Runtime
from training.benchmarks import Targets
from training.checkpoint import load_trained
from training.config import TrainingError
from training.data import load
from training.export import Export, export
from training.halves import round_weights
from training.parts import open_parts
from training.postprocessors import EXPORTED
from training.release import ReleaseRefused, check_parity, check_scores, shuffled_patches


def test_the_bundle_is_complete_and_passes_the_services_checks(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    Runtime(bundle, "cpu").check_golden()
    assert bundle.manifest.postprocessors == EXPORTED
    assert bundle.manifest.classes == ("blue", "green", "red")
    assert len(bundle.golden.images) == 32


def test_calibration_is_the_graphs_own_answer_to_the_calibration_part(bundle_folder: Path, trained_run: Path) -> None:
    bundle = load_bundle(bundle_folder)
    recipe = load_trained(trained_run).recipe
    pictures = load(open_parts(recipe).calibration, recipe.input, "calibration")
    probabilities, scores = Runtime(bundle, "cpu").run(pictures.take(torch.arange(len(pictures))).numpy())
    np.testing.assert_allclose(bundle.calibration.scores, np.sort(scores, axis=0).T, rtol=1e-4, atol=1e-5)
    assert bundle.manifest.calibration.n == 60
    assert np.array_equal(np.bincount(bundle.calibration.predicted[0]), np.bincount(probabilities.argmax(axis=1)))


def test_the_evaluation_holds_every_score_and_what_each_threshold_did(bundle_folder: Path) -> None:
    evaluation = load_bundle(bundle_folder).evaluation
    assert set(evaluation.postprocessors) == set(EXPORTED)
    assert evaluation.accuracy > 0.9
    for entry in evaluation.postprocessors.values():
        assert entry.far == entry.sets["mixtures"]
        assert {(point.alpha, point.guarantee) for point in entry.operating_points} == {
            (0.02, "marginal"),
            (0.05, "marginal"),
            (0.05, "pac"),
            (0.1, "marginal"),
            (0.1, "pac"),
        }


def test_a_version_is_never_overwritten_and_the_next_is_one_more(bundle_folder: Path, trained_run: Path, targets: Targets) -> None:
    trained, models = load_trained(trained_run), bundle_folder.parent.parent
    with pytest.raises(TrainingError, match="never overwritten"):
        export(trained_run, trained, targets, Export("blobs", models, version=1))
    second = export(trained_run, trained, targets, Export("blobs", models, postprocessors=("msp", "mls"), default_postprocessor="mls"))
    assert second == models / "blobs" / "2"
    assert list(find_versions(models)["blobs"]) == [1, 2]


def test_an_export_says_which_score_decides_and_what_its_threshold_promises(
    trained_run: Path, targets: Targets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(export(trained_run, load_trained(trained_run), targets, Export("blobs", tmp_path, postprocessors=("msp", "mls"))))
    said = capsys.readouterr().out
    assert "msp decides; --default-postprocessor lets another do so: mls\n" in said
    gates = [open_gate(row, 0.05, "pac", 0.05) for row in bundle.calibration.scores]
    assert f"thresholds: msp {gates[0].threshold:.4g}  mls {gates[1].threshold:.4g}\n" in said
    assert "alpha 0.05: with 95% confidence at most 0.05 of such pictures are rejected, 0.01639 are expected; n = 60" in said
    assert "which allows no alpha below 0.04871" in said
    assert images_needed(0.04871, "pac", 0.05) == 60 < images_needed(0.0487, "pac", 0.05)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"postprocessors": ("msp", "nonsense")}, "'nonsense' is not known"),
        ({"postprocessors": ("mls",)}, "'msp' is not among mls"),
        ({"postprocessors": ("msp", "odin")}, "odin needs the gradient with respect to the picture, .* can only be evaluated"),
        ({"postprocessors": ("msp", "iodin")}, "iodin needs the gradient with respect to the picture, .* can only be evaluated"),
        ({"alpha": 0.01, "postprocessors": ("msp",)}, "needs at least 299 calibration pictures, .* leaves 60"),
    ],
)
def test_what_cannot_be_promised_is_refused_and_leaves_nothing(
    asked: dict[str, object], message: str, trained_run: Path, targets: Targets, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        export(trained_run, load_trained(trained_run), targets, Export("blobs", tmp_path, **asked))  # type: ignore[arg-type]
    assert not list(tmp_path.rglob(MANIFEST))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_network_is_not_exported_with_the_evaluation_of_other_classes(trained_run: Path, targets: Targets, tmp_path: Path) -> None:
    other = replace(targets, id_test=replace(targets.id_test, classes=("red", "green", "blue")))
    with pytest.raises(TrainingError, match="the network's classes are blue, green, red; those of"):
        export(trained_run, load_trained(trained_run), other, Export("blobs", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_takes_id_for_the_stranger_is_refused_by_name() -> None:
    with pytest.raises(ReleaseRefused, match=r"vim has AUROC 0\.000"):
        check_scores({"vim": np.array([2.0, 3.0])}, {"vim": np.array([0.0, 1.0])})


def test_a_score_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ReleaseRefused, match="knn gives values that are not finite"):
        check_scores({"knn": np.array([0.0, 1.0])}, {"knn": np.array([np.nan, 2.0])})


def test_a_score_that_tells_nothing_apart_is_refused_by_name() -> None:
    with pytest.raises(ReleaseRefused, match=r"boundary has AUROC 0\.500, not above 0\.5"):
        check_scores({"boundary": np.ones(3)}, {"boundary": np.ones(4)})


def test_all_scores_that_fail_are_named_at_once_with_the_pictures_and_those_that_pass_to_paste() -> None:
    few, many = np.arange(3.0), np.arange(10.0, 14.0)
    inside = {"msp": few, "vim": many[:3], "ebo": few, "knn": few, "mds": many[:3]}
    outside = {"msp": many, "vim": np.arange(4.0), "ebo": many, "knn": np.full(4, np.nan), "mds": np.arange(4.0)}
    with pytest.raises(ReleaseRefused) as refused:
        check_scores(inside, outside)
    sentence = str(refused.value)
    assert sentence.startswith("3 of 5 scores are refused on 3 ID and 4 OOD validation pictures: ")
    assert all(f"{key} {what}" in sentence for key, what in {"vim": "has AUROC 0.000", "mds": "has AUROC 0.000", "knn": "gives values"}.items())
    assert "--ood-validation" in sentence
    assert sentence.endswith("--postprocessors msp,ebo")


def test_a_score_must_get_above_one_half_by_however_little() -> None:
    inside, outside = np.arange(40.0), np.arange(40.0)
    outside[7] += 0.5
    assert 0.5 < check_scores({"ebo": inside}, {"ebo": outside})["ebo"] < 0.501
    outside[7] -= 1
    with pytest.raises(ReleaseRefused, match=r"ebo has AUROC 0\.500, not above 0\.5"):
        check_scores({"ebo": inside}, {"ebo": outside})


def test_a_graph_that_differs_from_torch_is_refused_by_name() -> None:
    check_parity("ebo", np.array([0.0, 100.0]), np.array([0.0, 100.001]))
    with pytest.raises(ReleaseRefused, match="ebo: the exported graph differs"):
        check_parity("ebo", np.array([0.0, 1.0]), np.array([0.0, 1.001]))


def test_shuffled_patches_keep_the_pixels_and_move_them() -> None:
    images = torch.arange(8 * 8 * 3, dtype=torch.uint8).view(1, 8, 8, 3).repeat(3, 1, 1, 1)
    shuffled = shuffled_patches(images, 4)
    assert shuffled.shape == images.shape
    assert torch.equal(shuffled.flatten(1).sort(dim=1).values, images.flatten(1).sort(dim=1).values)
    assert not torch.equal(shuffled, images)


def test_weights_in_16_bits_halve_the_graph_and_pass_the_same_gate(bundle_folder: Path, trained_run: Path, targets: Targets, tmp_path: Path) -> None:
    asked = Export("blobs", tmp_path, postprocessors=("msp", "ebo"), precision="fp16")
    halves = load_bundle(export(trained_run, load_trained(trained_run), targets, asked))
    whole = load_bundle(bundle_folder)
    assert len(halves.model) < 0.65 * len(whole.model)
    assert halves.evaluation.accuracy == pytest.approx(whole.evaluation.accuracy, abs=0.05)
    Runtime(halves, "cpu").check_golden()


def test_quantised_convolutions_shrink_the_graph_and_are_calibrated_and_evaluated_as_they_are(
    bundle_folder: Path, trained_run: Path, targets: Targets, tmp_path: Path
) -> None:
    asked = Export("blobs", tmp_path, postprocessors=("msp", "ebo"), precision="int8")
    trained = load_trained(trained_run)
    small, whole = load_bundle(export(trained_run, trained, targets, asked)), load_bundle(bundle_folder)
    assert len(small.model) < 0.7 * len(whole.model)
    assert small.evaluation.accuracy == pytest.approx(whole.evaluation.accuracy, abs=0.1)
    runtime = Runtime(small, "cpu")
    runtime.check_golden()
    pictures = load(open_parts(trained.recipe).calibration, trained.recipe.input, "calibration")
    scores = runtime.run(pictures.take(torch.arange(len(pictures))).numpy())[1]
    np.testing.assert_allclose(small.calibration.scores, np.sort(scores, axis=0).T, rtol=1e-3, atol=1e-4)
    assert not np.allclose(small.calibration.scores[0], whole.calibration.scores[0], atol=1e-5), "its own scores, not the unquantised graph's"


def test_a_weight_that_16_bits_cannot_hold_is_refused(trained_run: Path) -> None:
    network = load_trained(trained_run).network
    with torch.no_grad():
        network.head.weight[0, 0] = 1e6
    with pytest.raises(TrainingError, match=r"head.weight has weights beyond 65504"):
        round_weights(network)
