"""Runs an exported graph over whole sets, as the service will run it: calibrate and evaluate what you serve."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from service.bundle.preprocess import Pixels
from service.runtime import cpu_quota, open_session
from training.config import Recipe
from training.data import Pictures, load
from training.sources import Source

BATCH = 100
Array = NDArray[Any]


class GraphRunner:
    """The graph as the service will run it: the same onnxruntime, on this machine's CPU."""

    def __init__(self, model: bytes, folder: Path, recipe: Recipe) -> None:
        self.session = open_session(model, folder, "cpu", cpu_quota())
        self.spec = recipe.input
        self.skip_unreadable = recipe.skip_unreadable

    def run(self, images: Pixels) -> tuple[Array, Array]:
        probabilities, scores = self.session.run(["probabilities", "scores"], {"images": images})
        return probabilities, scores

    def load(self, source: Source, what: str) -> Pictures:
        return load(source, self.spec, what, self.skip_unreadable)

    def run_source(self, source: Source, what: str) -> tuple[Array, Array, Array]:
        """Labels (N,), probabilities (N, C) and scores (N, P) of a whole set."""
        pictures = self.load(source, what)
        order = torch.arange(len(pictures)).split(BATCH)
        batches = tqdm(pictures.batches(order), f"graph on {what}", len(order), leave=False, disable=None)
        found = [self.run(images.numpy()) for images, _ in batches]
        probabilities, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        return pictures.labels.numpy(), probabilities, scores
