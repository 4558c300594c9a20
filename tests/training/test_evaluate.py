import json
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle.manifest import load_bundle
from training.__main__ import main
from training.benchmarks import BENCHMARKS, Targets, open_benchmark
from training.checkpoint import load_trained
from training.config import TrainingError
from training.evaluate import evaluate, print_evaluation
from training.features import FeatureCache, extract
from training.parts import open_parts
from training.postprocessors import EXPORTED, REGISTRY, Outputs
from training.probabilities import Probabilities


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


def test_the_benchmark_lists_openoods_sets_and_counts() -> None:
    counts = {entry.name: entry.expected for entry in BENCHMARKS["cifar10"].sets if entry.group != "stand-in"}
    assert counts == {"cifar100": 9000, "tiny-imagenet": 7793, "mnist": 70000, "svhn": 26032, "textures": 5640, "places365": 35195}


def test_absent_and_partial_sets_are_named_with_their_counts(
    mixtures: Path, write_parquet: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "cifar10" / "test.parquet", openood_cifar10=["test"] * 120)  # type: ignore[operator]
    (tmp_path / "textures").symlink_to(mixtures)
    found = open_benchmark("cifar10", tmp_path)
    said = capsys.readouterr().out
    assert "the ID test set is partial: 120 of 9000 pictures" in said
    assert "svhn is absent: 0 of 26032 pictures" in said
    assert "textures is partial: 60 of 5640 pictures" in said
    assert found.ood_sets["svhn"].images == 0
    assert list(found.sources) == ["textures"]


def test_the_table_marks_partial_sets_and_incomplete_means(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = load_bundle(bundle_folder).evaluation
    short = {"mixtures": evaluation.ood_sets["mixtures"].model_copy(update={"expected": 61})}
    print_evaluation(evaluation.model_copy(update={"ood_sets": short}))
    said = capsys.readouterr().out
    assert "mixtures* (far)" in said
    assert "far* mean" in said


def test_an_unknown_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'cifar11' is not known; known are cifar10"):
        open_benchmark("cifar11", tmp_path)


def test_the_command_prints_the_table_and_writes_it(trained_run: Path, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    main(["evaluate", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp,odin", "knn", "--json", str(file)])
    assert "mixtures (far)" in capsys.readouterr().out
    assert list(json.loads(file.read_text())["postprocessors"]) == ["msp", "odin", "knn"]


def test_a_place_without_a_name_is_refused_in_one_sentence(trained_run: Path, mixtures: Path) -> None:
    with pytest.raises(SystemExit, match="must be NAME=PLACE"):
        main(["evaluate", str(trained_run), "--far", str(mixtures)])
