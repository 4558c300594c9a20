"""Network, probabilities and scores as one ONNX graph: uint8 pictures in, decisions' raw material out."""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence

import onnx
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)
from torch import Tensor, nn

from training.columns import keep_columns
from training.halves import store_halves
from training.networks import Classifier
from training.postprocessors import Postprocessor
from training.probabilities import Probabilities

OPSET = 20


class Graph(nn.Module):
    """images uint8 (N, H, W, 3) -> probabilities (N, C), scores (N, P)."""

    def __init__(self, network: Classifier, probabilities: Probabilities, postprocessors: Mapping[str, Postprocessor]) -> None:
        super().__init__()
        self.keys = tuple(postprocessors)
        self.network = network
        self.probabilities = probabilities
        self.postprocessors = nn.ModuleList(postprocessors.values())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(images)
        scores = [postprocessor(features, logits) for postprocessor in self.postprocessors]
        return self.probabilities(logits), stacked(scores)


def stacked(scores: Sequence[Tensor]) -> Tensor:
    """P scores (N,) as (N, P): torch.stack(scores, dim=1) in the form that `keep_columns` looks for."""
    return torch.cat(list(scores)).view(len(scores), -1).T


def to_onnx(module: nn.Module, size: int, outputs: Sequence[str]) -> bytes:
    """A self-contained graph with a dynamic batch."""
    # An example batch of one would be taken for a constant.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    keep_columns(program.model)
    # Scores that share a quantity (D(z), the bank's similarities) each bring it along; here it becomes one again.
    DeduplicateInitializersPass(size_limit=2**31)(program.model)
    CommonSubexpressionEliminationPass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    # Every node carries a stack trace with the paths of the machine that exported it.
    ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    store_halves(model)
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()
