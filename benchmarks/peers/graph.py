"""What every peer serves: the same graph, session options and decoding as oodgate, and as answer the class and all scores."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle.manifest import load_bundle
from service.bundle.preprocess import Pixels, decode
from service.runtime import cpu_quota, open_session


class GraphOnCpu:
    def __init__(self, threads: int | None = None) -> None:
        bundle = load_bundle(Path(os.environ["BUNDLE"]))
        self.manifest = bundle.manifest
        self.session = open_session(bundle.model, bundle.folder, "cpu", threads or cpu_quota())

    def pixels(self, data: bytes) -> Pixels:
        return decode(data, self.manifest.input)

    def answer(self, rows: list[Pixels]) -> list[dict[str, Any]]:
        probabilities, scores = self.session.run(["probabilities", "scores"], {"images": np.stack(rows)})
        classes = probabilities.argmax(axis=1).tolist()
        return [
            {"label": self.manifest.classes[class_id], "probability": float(chances[class_id]), "scores": some.tolist()}
            for class_id, chances, some in zip(classes, probabilities, scores, strict=True)
        ]
