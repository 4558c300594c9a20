import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from service.bundle.evaluation import Evaluation
from service.bundle.manifest import load_bundle
from training.__main__ import main
from training.benchmarks import Targets
from training.checkpoint import load_trained
from training.config import TrainingError
from training.evaluate import choices, fit, score
from training.export import Export, export
from training.features import FeatureCache
from training.metrics import separation
from training.parts import open_parts
from training.postprocessors import REGISTRY, Postprocessor
from training.search import combinations, search


class Toy(Postprocessor):
    """The larger `good`, the better it separates; `idle` changes nothing; a negative `good` cannot be fitted."""

    key = "toy"
    sweep: ClassVar[dict[str, tuple[Any, ...]]] = {"good": (0.0, 1.0, 5.0, -1.0), "idle": ("a", "b")}

    def __init__(self, good: float = 0.0, idle: str = "a") -> None:
        super().__init__()
        self.good, self.idle = good, idle

    def fit(self, *_: object) -> None:
        if self.good < 0:
            raise ValueError("good is negative")

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        # Infinite for one of the values: what an empty null space gives.
        return features.sum(dim=1) / (self.good - 5.0) - self.good * logits.amax(dim=1)


def run_search(trained_run: Path, targets: Targets, *keys: str) -> Any:
    trained = load_trained(trained_run)
    return search(trained, open_parts(trained.recipe), FeatureCache(trained_run, trained), targets, keys)


def test_the_grid_is_full_and_the_first_argument_changes_fastest() -> None:
    found = list(combinations({"gamma": (1, 2), "largest": (10, 50, 100)}))
    assert [(entry["gamma"], entry["largest"]) for entry in found] == [(1, 10), (2, 10), (1, 50), (2, 50), (1, 100), (2, 100)]


def test_the_choice_has_the_best_auroc_of_id_validation_against_ood_validation(trained_run: Path, targets: Targets) -> None:
    found = run_search(trained_run, targets, "msp", "gen", "react")
    trained = load_trained(trained_run)
    parts, cache = open_parts(trained.recipe), FeatureCache(trained_run, trained)
    assert targets.ood_validation is not None
    outside = cache.outputs("OOD validation", targets.ood_validation)
    for key in ("gen", "react"):
        aurocs = []
        for hyperparameters in combinations(REGISTRY[key].sweep):
            fitted = fit(trained, parts, cache, (key,), {key: hyperparameters})
            aurocs.append(separation(score(fitted.postprocessors[key], fitted.validation), score(fitted.postprocessors[key], outside)).auroc)
        assert found.choices[key].auroc == max(aurocs)
        assert found.choices[key].tried == len(aurocs)
        # Of equals the first.
        assert list(combinations(REGISTRY[key].sweep))[int(np.argmax(aurocs))] == found.choices[key].hyperparameters
    assert "msp" not in found.choices
    assert (found.id_images, found.ood_images) == (len(parts.validation), 60)


def test_the_search_is_deterministic(trained_run: Path, targets: Targets) -> None:
    keys = ("gen", "react", "scale", "knn", "vra", "vim", "odin")
    assert run_search(trained_run, targets, *keys) == run_search(trained_run, targets, *keys)


def test_combinations_that_cannot_be_used_are_left_out_and_counted(
    trained_run: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(REGISTRY, "toy", Toy)
    choice = run_search(trained_run, targets, "toy").choices["toy"]
    assert (choice.tried, choice.left_out) == (4, 4)  # -1 cannot be fitted, 5 divides by zero
    assert choice.hyperparameters["idle"] == "a"
    assert "best of 4, 4 left out" in capsys.readouterr().out
    monkeypatch.setattr(Toy, "sweep", {"good": (-1.0, -2.0)})
    assert run_search(trained_run, targets, "toy").choices == {}
    assert "toy keeps its defaults: not one of 2 combinations can be used: good is negative" in capsys.readouterr().out
    monkeypatch.setattr(Toy, "sweep", {"good": (-1.0, -2.0, 5.0)})
    assert run_search(trained_run, targets, "toy").choices == {}
    assert "not one of 3 combinations can be used: good is negative; its values are not finite" in capsys.readouterr().out


def test_a_search_without_ood_validation_pictures_is_refused(trained_run: Path, targets: Targets) -> None:
    with pytest.raises(TrainingError, match="needs OOD validation pictures: give --ood-validation"):
        run_search(trained_run, replace(targets, ood_validation=None), "gen")


def test_the_choices_are_in_evaluation_json_and_scores_are_fitted_with_them(
    trained_run: Path, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        str(trained_run),
        "--far",
        f"mixtures={mixtures}",
        "--postprocessors",
        "msp",
        "react",
        "--json",
        str(tmp_path / "table.json"),
    ]
    main([*words, "--search", "--ood-validation", str(mixtures)])
    evaluation = Evaluation.model_validate_json((tmp_path / "table.json").read_bytes())
    assert evaluation.search is not None
    chosen = evaluation.search.choices["react"].hyperparameters
    assert re.search(rf"react: percentile {chosen['percentile']} \(AUROC ", capsys.readouterr().out)
    trained = load_trained(trained_run)
    fitted = fit(trained, open_parts(trained.recipe), FeatureCache(trained_run, trained), ("react",), choices(evaluation.search))
    assert fitted.postprocessors["react"].percentile == chosen["percentile"]
    main(words)
    assert Evaluation.model_validate_json((tmp_path / "table.json").read_bytes()).search is None


def test_a_bundle_is_exported_with_what_was_chosen_and_says_so(trained_run: Path, targets: Targets, tmp_path: Path) -> None:
    found = run_search(trained_run, targets, "msp", "react", "scale")
    trained = load_trained(trained_run)
    bundle = load_bundle(export(trained_run, trained, targets, Export("blobs", tmp_path, postprocessors=("msp", "react", "scale")), found))
    assert bundle.evaluation.search == found
    assert bundle.manifest.hyperparameters == {key: choice.hyperparameters for key, choice in found.choices.items()}
    fitted = fit(trained, open_parts(trained.recipe), FeatureCache(trained_run, trained), ("react",), choices(found))
    golden = torch.from_numpy(bundle.golden.images)
    with torch.inference_mode():
        wanted = fitted.postprocessors["react"](*trained.network(golden)).numpy()
    np.testing.assert_allclose(bundle.golden.scores[:, 1], wanted, rtol=1e-4, atol=1e-4)
