import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle.evaluation import Evaluation, ShiftedSet
from service.bundle.manifest import load_bundle
from training.__main__ import main
from training.benchmarks import Targets
from training.boundary import scaled_logits, weight_distances
from training.checkpoint import load_trained
from training.config import TrainingError
from training.corruptions import corrupted
from training.evaluate import evaluate
from training.features import FeatureCache, extract
from training.metrics import expected_calibration_error
from training.parts import open_parts
from training.postprocessors import EXPORTED, REGISTRY, Outputs
from training.probabilities import Probabilities

WriteParquet = Callable[..., Path]


def test_cached_features_and_the_exported_graph_give_the_same_table(trained_run: Path, targets: Targets, bundle_folder: Path) -> None:
    ours = evaluate(trained_run, load_trained(trained_run), targets, tuple(REGISTRY))
    graphs = load_bundle(bundle_folder).evaluation
    assert ours.accuracy == graphs.accuracy
    assert ours.ece == pytest.approx(graphs.ece, abs=1e-4)
    assert set(ours.postprocessors) == set(REGISTRY)
    for key in EXPORTED:
        assert ours.postprocessors[key].sets["mixtures"].auroc == pytest.approx(graphs.postprocessors[key].sets["mixtures"].auroc, abs=1e-3)


def test_the_cache_answers_without_the_network_and_not_for_other_weights(trained_run: Path, tmp_path: Path) -> None:
    trained = load_trained(trained_run)
    source = open_parts(trained.recipe).validation
    first = FeatureCache(tmp_path, trained).outputs("validation", source)
    files = list((tmp_path / "features").iterdir())
    assert len(files) == 1
    again = FeatureCache(tmp_path, trained).outputs("validation", source)
    assert torch.equal(first.features, again.features)
    with torch.no_grad():
        trained.network.head.weight.mul_(2)
    other = FeatureCache(tmp_path, trained).outputs("validation", source)
    assert not torch.equal(first.logits, other.logits)


def test_the_cache_does_not_answer_for_other_pictures_nor_other_names(trained_run: Path, tmp_path: Path) -> None:
    trained = load_trained(trained_run)
    source = open_parts(trained.recipe).validation
    first = FeatureCache(tmp_path, trained).outputs("validation", source)
    other = FeatureCache(tmp_path, trained).outputs("validation", replace(source, read=lambda row: source.read(len(source) - 1 - row)))
    torch.testing.assert_close(other.features, first.features.flip(0))
    FeatureCache(tmp_path, trained).outputs("validation", replace(source, name=lambda row: f"other {row}"))
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_features_come_with_logits_of_the_head_and_the_labels(trained_run: Path) -> None:
    trained = load_trained(trained_run)
    source = open_parts(trained.recipe).validation
    outputs = extract(trained.network, source, trained.recipe.input, "validation")
    torch.testing.assert_close(trained.network.head(outputs.features), outputs.logits)
    assert np.array_equal(outputs.labels.numpy(), source.labels)


def test_the_temperature_mends_overconfidence() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(3, 3)
    sure = torch.randn(4000, 3, generator=generator)
    labels = torch.distributions.Categorical(logits=sure).sample()
    probabilities = Probabilities("ce")
    probabilities.fit(Outputs(sure, 5 * sure, labels), head)
    assert probabilities.temperature.item() == pytest.approx(5, rel=0.1)


def test_probabilities_of_an_elogitnorm_network_do_not_see_the_scale_of_its_logits() -> None:
    head = torch.nn.Linear(3, 4)
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    probabilities = Probabilities("elogitnorm")
    probabilities.fit(Outputs(logits, logits, torch.arange(50) % 4), head)
    torch.testing.assert_close(probabilities(logits), probabilities(1000 * logits))


def test_the_full_spectrum_counts_shifted_pictures_as_id_before_each_metric(trained_run: Path, targets: Targets) -> None:
    plain = evaluate(trained_run, load_trained(trained_run), targets, ("msp",))
    sets = {"noisy": ShiftedSet(images=len(targets.id_test)), "gone": ShiftedSet(images=0)}
    shifted = replace(targets, shifted={"noisy": corrupted(targets.id_test)}, shifted_sets=sets)
    evaluation = evaluate(trained_run, load_trained(trained_run), shifted, ("msp",))
    spectrum = evaluation.full_spectrum
    assert spectrum is not None
    assert evaluation.postprocessors == plain.postprocessors
    assert spectrum.shifted_sets["gone"] == ShiftedSet(images=0)
    assert spectrum.accuracy == pytest.approx((plain.accuracy + spectrum.shifted_sets["noisy"].accuracy) / 2)
    # AUROC is an average over ID pictures, so that of both halves together is the mean of the two.
    noisy = evaluate(trained_run, load_trained(trained_run), replace(targets, id_test=shifted.shifted["noisy"]), ("msp",))
    both = (entry.postprocessors["msp"].sets["mixtures"].auroc for entry in (plain, noisy))
    assert spectrum.postprocessors["msp"].sets["mixtures"].auroc == pytest.approx(sum(both) / 2)


def test_a_run_can_be_evaluated_on_shifted_pictures_of_ones_own(
    trained_run: Path, mixtures: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp", "--json", str(tmp_path / "table.json")]
    main([*words, "--shifted", f"again={blobs}"])
    assert "full spectrum: accuracy" in capsys.readouterr().out
    assert Evaluation.model_validate_json((tmp_path / "table.json").read_bytes()).full_spectrum
    with pytest.raises(SystemExit, match=r"the shifted set wrong at .* needs the classes of the ID test set: blue, green, red"):
        main([*words, "--shifted", f"wrong={blobs.parent}"])


def test_the_command_prints_the_table_and_writes_it(trained_run: Path, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    main(["evaluate", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp,odin", "knn", "--json", str(file)])
    assert "mixtures (far)" in capsys.readouterr().out
    assert list(json.loads(file.read_text())["postprocessors"]) == ["msp", "odin", "knn"]


def test_without_test_pictures_it_is_said_that_the_validation_pictures_are_measured(
    trained_run: Path, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp", "--json", str(tmp_path / "table.json")])
    expected = len(open_parts(load_trained(trained_run).recipe).validation)
    assert f"measured on the {expected} validation pictures, which chose the checkpoint and fitted the scores" in capsys.readouterr().out


def test_without_an_ood_set_an_earlier_evaluation_is_not_written_over(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    file.write_text("of yesterday")
    with pytest.raises(SystemExit, match=rf"there is no OOD set .* so no score is measured and {file} is not written"):
        main(["evaluate", str(trained_run), "--postprocessors", "msp", "--json", str(file)])
    assert file.read_text() == "of yesterday"
    capsys.readouterr()
    kept = trained_run / "evaluation.json"
    before = kept.read_bytes() if kept.exists() else None
    main(["evaluate", str(trained_run), "--postprocessors", "msp"])
    said = capsys.readouterr().out
    assert "accuracy" in said
    assert f"there is no OOD set (--near or --far NAME=PLACE, or --benchmark), so no score is measured and {kept} is not written" in said
    assert "AUROC" not in said
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_a_place_without_a_name_is_refused_in_one_sentence(trained_run: Path, mixtures: Path) -> None:
    with pytest.raises(SystemExit, match="must be NAME=PLACE"):
        main(["evaluate", str(trained_run), "--far", str(mixtures)])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--far", "a=x", "--far", "a=y"], "two sets are called 'a': x and y"),
        (["--near", "a=x", "--far", "a=y"], "two sets are called 'a': x and y"),
        (
            ["--benchmark", "cifar10", "--near", "a=x", "--ood-validation", "y"],
            "cifar10 brings all its sets, leave out --near --ood-validation",
        ),
    ],
)
def test_no_set_that_is_given_is_left_out_in_silence(trained_run: Path, words: list[str], reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        main(["evaluate", str(trained_run), *words])


def renamed(targets: Targets, *classes: str) -> Targets:
    return replace(targets, id_test=replace(targets.id_test, classes=classes))


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("red", "green", "blue"), "the network's classes are blue, green, red; those of .* are red, green, blue"),
        (("blue", "green", "red", "grey"), "the network has 3 classes, .* has 4"),
        (("blue", "green"), "the network's classes are blue, green, red; those of .* are blue, green"),
    ],
)
def test_a_network_is_not_measured_on_the_classes_of_another(trained_run: Path, targets: Targets, classes: tuple[str, ...], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        evaluate(trained_run, load_trained(trained_run), renamed(targets, *classes), ("msp",))


def test_classes_of_other_names_are_taken_in_their_order_and_it_is_said(
    trained_run: Path, targets: Targets, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_trained(trained_run)
    assert evaluate(trained_run, trained, renamed(targets, "n1", "n2", "n3"), ("msp",)) == evaluate(trained_run, trained, targets, ("msp",))
    assert "called blue, green, red, those of" in capsys.readouterr().out


def test_test_pictures_that_chose_the_checkpoint_are_not_measured(
    write_parquet: WriteParquet, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "set" / "train.parquet")
    test = write_parquet(tmp_path / "set" / "test.parquet", part=["val", "test", "test", "test"] * 30)
    run = tmp_path / "run"
    words = ["--width", "8", "--epochs", "1", "--batch-size", "32", "--out", str(run)]
    main(["train", "--data", str(test.parent), "--validation", f"{test}#part=val", *words])
    capsys.readouterr()
    main(["evaluate", str(run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp"])
    said = capsys.readouterr().out
    assert "30 of 120 test pictures chose the checkpoint or calibrate, and are left out" in said
    assert "90 ID pictures" in said


def test_where_every_test_picture_chose_the_checkpoint_nothing_is_measured(
    write_parquet: WriteParquet, mixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "set" / "train.parquet")
    write_parquet(tmp_path / "set" / "test.parquet")
    # Whatever way the place is spelt.
    monkeypatch.chdir(tmp_path)
    words = ["--width", "8", "--epochs", "1", "--batch-size", "32", "--out", "run"]
    main(["train", "--data", str(tmp_path / "set"), "--validation", "set/test.parquet", *words])
    with pytest.raises(SystemExit, match=r"all 120 test pictures of .* chose the checkpoint or calibrate, none is left to measure on"):
        main(["evaluate", "run", "--far", f"mixtures={mixtures}", "--postprocessors", "msp"])


def test_the_calibration_of_each_kind_of_probabilities_is_measured(trained_run: Path, targets: Targets) -> None:
    trained = load_trained(trained_run)
    found = evaluate(trained_run, trained, targets, ("msp",))
    outputs = FeatureCache(trained_run, trained).outputs("ID test", targets.id_test)
    scaled = scaled_logits(outputs.logits, weight_distances(trained.network.head.weight)).softmax(dim=1).detach().numpy()
    assert found.ece_scaled == pytest.approx(expected_calibration_error(scaled, outputs.labels.numpy()))
    assert found.ece_scaled != found.ece
