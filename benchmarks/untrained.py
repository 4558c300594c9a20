"""A bundle of an untrained ResNet-18 of any width, with every score, for measuring speed: weights do not change how long a network takes.

    python benchmarks/untrained.py 64 /tmp/models

Network, scores and graph come from the real exporter; only the release gate is not asked, which an untrained network could not pass.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from service.bundle.evaluation import Evaluation
from service.bundle.manifest import CalibrationInfo, Manifest, TrainingInfo, npz, sha256
from service.bundle.preprocess import InputSpec
from training.config import Recipe
from training.export import write
from training.graph import Graph, to_onnx
from training.networks import build_network
from training.postprocessors import REGISTRY, Outputs
from training.probabilities import Probabilities
from training.runner import GraphRunner

CLASSES, SIZE, IMAGES = 10, 32, 600


def untrained(width: int, models_dir: Path) -> Path:
    """The folder of the bundle `width-<width>`, version 1; the one that is there, if there is one."""
    folder = models_dir / f"width-{width}" / "1"
    if folder.exists():
        return folder
    torch.manual_seed(0)
    network = build_network("resnet18_32x32", CLASSES, [0.5] * 3, [0.25] * 3, width).eval()
    images = torch.randint(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.inference_mode():
        parts = [network(some) for some in images.split(100)]
        outputs = Outputs(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), torch.arange(IMAGES) % CLASSES)
    outputs = Outputs(*(tensor.clone() for tensor in outputs))
    probabilities = Probabilities("elogitnorm")
    probabilities.fit(outputs, network.head)
    postprocessors = {key: kind() for key, kind in REGISTRY.items()}
    for postprocessor in postprocessors.values():
        postprocessor.fit(outputs, outputs, network.head)
    model = to_onnx(Graph(network, probabilities, postprocessors).eval(), SIZE, ["probabilities", "scores"])
    runner = GraphRunner(model, folder, Recipe(data="noise", width=width))
    found = [runner.run(some.numpy()) for some in images.split(100)]
    chances, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    order = scores.argsort(axis=0, kind="stable")
    evaluation = Evaluation(id_data="noise", id_images=IMAGES, accuracy=0.1, ece=0, ece_raw=0, ood_sets={}, postprocessors={})
    files = {
        "model.onnx": model,
        "calibration.npz": npz(scores=np.take_along_axis(scores, order, axis=0).T.copy(), predicted=chances.argmax(axis=1).astype(np.int32)[order.T]),
        "golden.npz": npz(images=images[:32].numpy(), probabilities=chances[:32], scores=scores[:32]),
        "evaluation.json": evaluation.model_dump_json().encode(),
    }
    manifest = Manifest(
        format_version=1,
        name=folder.parent.name,
        version=1,
        classes=tuple(f"class-{number}" for number in range(CLASSES)),
        input=InputSpec(size=SIZE, resize=SIZE, crop=SIZE),
        postprocessors=tuple(REGISTRY),
        default_postprocessor="msp",
        calibration=CalibrationInfo(n=IMAGES, alpha=0.05, delta=0.05, data="noise", timestamp=0),
        training=TrainingInfo(recipe={"width": width}, data="none: untrained", seed=0, code_version="benchmark"),
        sha256={name: sha256(data) for name, data in files.items()},
    )
    write(folder, files, manifest)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("width", type=int)
    parser.add_argument("models_dir", type=Path)
    arguments = parser.parse_args()
    print(untrained(arguments.width, arguments.models_dir))
