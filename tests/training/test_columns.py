import io
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from training.graph import stacked, to_onnx
from training.postprocessors.msp_knn import Surprise


class Scores(nn.Module):
    """Three numbers of each picture: one ends in a change of sign, one is used twice, one goes through a table."""

    def __init__(self) -> None:
        super().__init__()
        self.surprise = Surprise()
        self.surprise.fit(torch.linspace(0, 255, 50))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float().flatten(1)
        largest = pixels.amax(dim=1)
        return stacked([-pixels.mean(dim=1), largest * 2, self.surprise(largest)])


class Folded(Scores):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).cumsum(dim=1)


class Vectors(Scores):
    """A vector goes where a column would mean something else: to the other pictures of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        largest = images.float().flatten(1).amax(dim=1)
        return stacked([largest, largest.cumsum(dim=0)])


@cache
def run(kind: type[nn.Module]) -> tuple[list[str], Any, Any]:
    module = kind().eval()
    graph = to_onnx(module, 4, ["scores"])
    session = ort.InferenceSession(io.BytesIO(graph).getvalue(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 4, 3), np.uint8)
    (scores,) = session.run(["scores"], {"images": images})
    return [node.op_type for node in onnx.load_from_string(graph).graph.node], scores, module(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("kind", [Scores, Folded, Vectors])
def test_the_graph_still_says_the_same(kind: type[nn.Module]) -> None:
    _, got, want = run(kind)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("kind", [Scores, Folded])
def test_bookkeeping_is_gone(kind: type[nn.Module]) -> None:
    nodes, _, _ = run(kind)
    assert not {"Unsqueeze", "Transpose", "Neg"} & set(nodes)


def test_a_graph_with_other_uses_of_vectors_is_left_alone() -> None:
    nodes, _, _ = run(Vectors)
    assert "Transpose" in nodes
