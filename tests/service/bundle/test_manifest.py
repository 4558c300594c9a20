"""One way a bundle can be wrong, one test, with the very bytes."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.bundle.manifest import BundleError, find_versions, load_bundle, npz, sha256
from service.runtime import Runtime
from tests.bundles import graph, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path, images=100)


def rewrite(folder: Path, file: str, data: bytes) -> None:
    """Other bytes, and the manifest says so."""
    (folder / file).write_bytes(data)
    edit_manifest(folder, lambda manifest: manifest["sha256"].update({file: sha256(data)}))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def arrays(folder: Path, file: str) -> dict[str, Any]:
    return dict(np.load(io.BytesIO((folder / file).read_bytes())))


def test_a_written_bundle_is_loaded_whole(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.manifest.postprocessors == ("msp", "ebo", "knn")
    assert bundle.calibration.scores.shape == (3, 100)
    assert len(bundle.golden.images) == 32


def test_what_a_search_chose_is_read_from_both_files_and_may_be_missing_from_both(folder: Path) -> None:
    assert load_bundle(folder).manifest.hyperparameters == {}
    assert load_bundle(folder).evaluation.search is None
    choice = {"hyperparameters": {"k": 5, "centre": 0.5, "whole": True}, "auroc": 0.9, "tried": 4}
    evaluation = json.loads((folder / "evaluation.json").read_text()) | {"search": {"id_images": 10, "ood_images": 20, "choices": {"knn": choice}}}
    rewrite(folder, "evaluation.json", json.dumps(evaluation).encode())
    edit_manifest(folder, lambda manifest: manifest.update(hyperparameters={"knn": choice["hyperparameters"]}))
    bundle = load_bundle(folder)
    assert bundle.evaluation.search is not None
    assert bundle.evaluation.search.choices["knn"].hyperparameters == bundle.manifest.hyperparameters["knn"]
    assert [type(value) for value in bundle.manifest.hyperparameters["knn"].values()] == [int, float, bool]


def test_a_bundle_written_before_there_was_a_search_is_loaded_as_it_is(folder: Path) -> None:
    for name, key in (("evaluation.json", "search"), ("evaluation.json", "full_spectrum"), ("evaluation.json", "id_expected")):
        evaluation = json.loads((folder / name).read_text())
        evaluation.pop(key)
        rewrite(folder, name, json.dumps(evaluation).encode())
    edit_manifest(folder, lambda manifest: manifest.pop("hyperparameters"))
    assert load_bundle(folder).manifest.postprocessors == ("msp", "ebo", "knn")


@pytest.mark.parametrize("file", ["model.onnx", "calibration.npz", "golden.npz", "evaluation.json"])
def test_a_missing_file_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(BundleError, match=f"{file} cannot be read: No such file"):
        load_bundle(folder)


def test_a_missing_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing, so the bundle is not complete"):
        load_bundle(folder)


@pytest.mark.parametrize("file", ["model.onnx", "calibration.npz", "golden.npz", "evaluation.json"])
def test_another_sha256_is_refused(folder: Path, file: str) -> None:
    with (folder / file).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BundleError, match=f"{file} has sha256"):
        load_bundle(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_version_is_refused(folder: Path, version: object) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(BundleError, match=r"format_version is .*, this version reads 1"):
        load_bundle(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        load_bundle(folder)


def test_a_manifest_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match="format_version is None"):
        load_bundle(folder)


def test_an_unknown_key_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(colour="blue"))
    with pytest.raises(BundleError, match="colour: Extra inputs are not permitted"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"default_postprocessor": "vim"}, "default_postprocessor 'vim' is not among"),
        ({"postprocessors": ["knn", "knn", "ebo"]}, "named twice"),
        ({"classes": ["red", "red", "blue"]}, "named twice"),
        ({"input": {"size": 8, "resize": 8, "crop": 4}}, "input crop 4 must equal size 8"),
        ({"sha256": {}}, "sha256 must list"),
        ({"hyperparameters": {"vim": {"dim": 256}}}, "hyperparameters are given for vim, which is not among msp, ebo, knn"),
        ({"hyperparameters": {"knn": {"k": [5]}}}, "hyperparameters.knn.k"),
    ],
)
def test_a_manifest_that_disagrees_with_itself_is_refused(folder: Path, change: dict[str, Any], sentence: str) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(change))
    with pytest.raises(BundleError, match=sentence):
        load_bundle(folder)


def test_a_folder_of_another_name_is_refused(folder: Path) -> None:
    renamed = folder.rename(folder.parent / "2")
    with pytest.raises(BundleError, match="the manifest names tiny/1, the folder tiny/2"):
        load_bundle(renamed)


def test_external_data_beside_the_model_is_refused(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(BundleError, match=r"model\.onnx\.data does not belong into a bundle \(external data is not accepted\)"):
        load_bundle(folder)


def test_a_model_that_points_to_external_data_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.zeros((512, 512), np.float32).tobytes())
    model = graph()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "mixing")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    rewrite(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx cannot be opened"):
        Runtime(load_bundle(folder), "cpu", 1)


def test_unsorted_calibration_scores_are_refused(folder: Path) -> None:
    calibration = arrays(folder, "calibration.npz")
    calibration["scores"][1] = calibration["scores"][1][::-1]
    rewrite(folder, "calibration.npz", npz(**calibration))
    with pytest.raises(BundleError, match="the scores of ebo are not sorted"):
        load_bundle(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_calibration_scores_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    calibration = arrays(folder, "calibration.npz")
    calibration["scores"][0, -1] = value
    rewrite(folder, "calibration.npz", npz(**calibration))
    with pytest.raises(BundleError, match="scores has values that are not finite"):
        load_bundle(folder)


def test_a_predicted_class_that_does_not_exist_is_refused(folder: Path) -> None:
    calibration = arrays(folder, "calibration.npz")
    calibration["predicted"][0, 0] = 3
    rewrite(folder, "calibration.npz", npz(**calibration))
    with pytest.raises(BundleError, match="predicted has classes outside 0 … 2"):
        load_bundle(folder)


def test_fewer_calibration_scores_than_the_manifest_says_are_refused(folder: Path) -> None:
    calibration = arrays(folder, "calibration.npz")
    rewrite(folder, "calibration.npz", npz(scores=calibration["scores"][:, 1:].copy(), predicted=calibration["predicted"]))
    with pytest.raises(BundleError, match=r"scores is float32\(3, 99\), it must be float32\(3, 100\)"):
        load_bundle(folder)


def test_arrays_of_other_names_are_refused(folder: Path) -> None:
    rewrite(folder, "calibration.npz", npz(values=np.zeros(3)))
    with pytest.raises(BundleError, match=r"calibration\.npz holds values; it must hold predicted, scores"):
        load_bundle(folder)


def test_pickled_arrays_are_refused(folder: Path) -> None:
    rewrite(folder, "calibration.npz", npz(scores=np.array([{"a": 1}], dtype=object), predicted=np.zeros(1)))
    with pytest.raises(BundleError, match=r"calibration\.npz cannot be read: Object arrays cannot be loaded"):
        load_bundle(folder)


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_bytes_that_are_no_npz_are_refused(folder: Path, data: bytes) -> None:
    rewrite(folder, "golden.npz", data)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        load_bundle(folder)


def test_a_golden_set_of_unequal_lengths_is_refused(folder: Path) -> None:
    golden = arrays(folder, "golden.npz")
    golden["scores"] = golden["scores"][1:].copy()
    rewrite(folder, "golden.npz", npz(**golden))
    with pytest.raises(BundleError, match="must be equally many"):
        load_bundle(folder)


def test_an_evaluation_with_an_impossible_figure_is_refused(folder: Path) -> None:
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["accuracy"] = 1.5
    rewrite(folder, "evaluation.json", json.dumps(evaluation).encode())
    with pytest.raises(BundleError, match=r"evaluation\.json: accuracy"):
        load_bundle(folder)


def test_only_complete_versions_are_found_and_ten_comes_after_nine(tmp_path: Path) -> None:
    for path in ("a/9/manifest.json", "a/10/manifest.json", "a/11/model.onnx", "a/latest/manifest.json", "a/01/manifest.json", "b/1/manifest.json"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    assert {name: list(versions) for name, versions in find_versions(tmp_path).items()} == {"a": [9, 10], "b": [1]}


def test_folders_whose_name_no_model_may_have_are_none(tmp_path: Path) -> None:
    for name in (".staging", "_old", "Photos", "two words", "a\n", "a" * 129, "a.b-c_1"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "manifest.json").touch()
    assert list(find_versions(tmp_path)) == ["a.b-c_1"]
