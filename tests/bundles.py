"""A tiny real bundle: pictures are classed by their strongest colour, and scored by three real post-processors.

Built with onnx.helper, calibrated by running the very graph, written as training writes one: the manifest last.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.bundle.evaluation import Evaluation
from service.bundle.manifest import Manifest, npz, sha256
from service.bundle.preprocess import Pixels
from service.runtime import open_session

SIZE = 8
CLASSES = ("red", "green", "blue")
POSTPROCESSORS = ("msp", "ebo", "knn")
CALIBRATION_IMAGES = 1000
# The graph fails on a picture whose first byte is this: what a broken inference looks like.
POISON = 7


def pixels(count: int, seed: int) -> Pixels:
    """ID pictures (N, 8, 8, 3): one of the three colours, more or less bright, with noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (count, SIZE, SIZE, 3))
    strongest = random.integers(0, 3, count)
    images[np.arange(count), :, :, strongest] += random.integers(100, 190, (count, 1, 1))
    images[:, 0, 0, 0] = images[:, 0, 0, 0].clip(POISON + 1)
    return images.astype(np.uint8)


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def id_png(seed: int = 0) -> bytes:
    return png(pixels(1, 10_000 + seed)[0])


def ood_png() -> bytes:
    """Plain black: no colour is strongest."""
    return png(np.zeros((SIZE, SIZE, 3), np.uint8))


def poison_png() -> bytes:
    image = pixels(1, 5)[0]
    image[0, 0, 0] = POISON
    return png(image)


def graph(slow_steps: int = 0) -> onnx.ModelProto:
    """images uint8 (N, 8, 8, 3) -> probabilities (N, 3), scores (N, 3). Features: the mean of each colour.

    slow_steps: matrix products in the way of every batch, each some milliseconds long.
    """
    bank = pixels(50, 1).astype(np.float32).mean(axis=(1, 2)) / 255
    constants = {
        "scale": np.array(255, np.float32),
        "head": 12 * np.eye(3, dtype=np.float32),
        "bank": bank[None],
        "plane": np.array([1, 2], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "corner_from": np.array([0, 0, 0], np.int64),
        "corner_to": np.array([1, 1, 1], np.int64),
        "corner_axes": np.array([1, 2, 3], np.int64),
        "poison": np.array(POISON, np.uint8),
        "column": np.array([-1, 1], np.int64),
        "zero": np.zeros(1, np.float32),
        "mixing": np.full((512, 512), 1 / 512, np.float32),
        "all": np.array([0, 1], np.int64),
    }
    # A chain that keeps its value, so that it neither vanishes nor changes anything but the time.
    slow = [helper.make_node("MatMul", [f"slow{step}", "mixing"], [f"slow{step + 1}"]) for step in range(slow_steps)]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "plane"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "one"], ["confidence"], keepdims=1),
        helper.make_node("Neg", ["confidence"], ["msp"]),
        helper.make_node("ReduceLogSumExp", ["logits", "one"], ["free_energy"], keepdims=1),
        helper.make_node("Neg", ["free_energy"], ["ebo"]),
        helper.make_node("Unsqueeze", ["features", "one"], ["query"]),
        helper.make_node("Sub", ["query", "bank"], ["differences"]),
        helper.make_node("ReduceL2", ["differences", "two"], ["distances"], keepdims=0),
        helper.make_node("ReduceMin", ["distances", "one"], ["nearest"], keepdims=1),
        # Index 1 into a table of one entry fails, and with it the batch.
        helper.make_node("Slice", ["images", "corner_from", "corner_to", "corner_axes"], ["corner"]),
        helper.make_node("Equal", ["corner", "poison"], ["poisoned"]),
        helper.make_node("Cast", ["poisoned"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zero", "index"], ["looked_up"]),
        helper.make_node("Reshape", ["looked_up", "column"], ["nothing"]),
        helper.make_node("ReduceSum", ["nothing", "all"], ["start"], keepdims=0),
        helper.make_node("Add", ["start", "mixing"], ["slow0"]),
        *slow,
        helper.make_node("ReduceMin", [f"slow{slow_steps}", "all"], ["positive"], keepdims=0),
        helper.make_node("Min", ["positive", "zero"], ["still_nothing"]),
        helper.make_node("Add", ["nearest", "still_nothing"], ["knn"]),
        helper.make_node("Concat", ["msp", "ebo", "knn"], ["scores"], axis=1),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "colours",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def evaluation() -> Evaluation:
    separation = {"auroc": 0.9, "aupr_in": 0.9, "aupr_out": 0.9, "fpr95_id_kept": 0.1, "fpr95_ood_caught": 0.2}
    point = {
        "alpha": 0.05,
        "guarantee": "pac",
        "threshold": 0.0,
        "expected_false_reject_ratio": 0.039,
        "measured_false_reject_ratio": 0.04,
        "ood_caught_ratio": {"black": 0.97},
    }
    return Evaluation.model_validate(
        {
            "id_data": "colours",
            "id_images": 100,
            "accuracy": 1.0,
            "ece": 0.02,
            "ece_raw": 0.1,
            "ood_sets": {"black": {"group": "far", "images": 10}},
            "postprocessors": {
                key: {"sets": {"black": separation}, "near": None, "far": separation, "operating_points": [point]} for key in POSTPROCESSORS
            },
        }
    )


def describe(name: str, version: int, images: int, hashes: dict[str, str]) -> Manifest:
    return Manifest.model_validate(
        {
            "format_version": 1,
            "name": name,
            "version": version,
            "classes": CLASSES,
            "input": {"size": SIZE, "resize": SIZE, "crop": SIZE},
            "postprocessors": POSTPROCESSORS,
            "default_postprocessor": "knn",
            "calibration": {"n": images, "alpha": 0.05, "delta": 0.05, "data": "noise", "timestamp": 1_700_000_000},
            "training": {"recipe": {"network": "colours"}, "data": "noise", "seed": 0, "code_version": "test"},
            "sha256": hashes,
        }
    )


def run(model: bytes, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Calibrate what is served: the graph in the session that the service would open."""
    probabilities, scores = open_session(model, Path("tiny"), "cpu", 1).run(["probabilities", "scores"], {"images": images})
    return probabilities, scores


def write_bundle(
    models_dir: Path, name: str = "tiny", version: int = 1, images: int = CALIBRATION_IMAGES, slow_steps: int = 0, **replaced: bytes
) -> Path:
    """Writes a bundle and gives its folder. `replaced`: other bytes for a file, by its stem, hashed as they are."""
    model = graph(slow_steps).SerializeToString()
    probabilities, scores = run(model, pixels(images, 2))
    order = np.argsort(scores, axis=0)
    golden_images = pixels(32, 3)
    golden_probabilities, golden_scores = run(model, golden_images)
    content: dict[str, Any] = {
        "model.onnx": model,
        "calibration.npz": npz(
            scores=np.take_along_axis(scores, order, axis=0).T.copy(), predicted=probabilities.argmax(axis=1)[order].T.astype(np.int32)
        ),
        "golden.npz": npz(images=golden_images, probabilities=golden_probabilities, scores=golden_scores),
        "evaluation.json": evaluation().model_dump_json().encode(),
    }
    content |= {file: replaced[file.split(".")[0]] for file in content if file.split(".")[0] in replaced}
    folder = models_dir / name / str(version)
    folder.mkdir(parents=True)
    for file, data in content.items():
        (folder / file).write_bytes(data)
    manifest = describe(name, version, images, {file: sha256(data) for file, data in content.items()})
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder
