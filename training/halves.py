"""Weights stored in 16 bits: half the file, computed in float32 all the same.

A network is rounded first and only then exported, evaluated and calibrated, so nothing differs afterwards: the graph
stores exactly the weights that torch had.
"""

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.fx.experimental.optimization import fuse

from training.config import TrainingError
from training.networks import Classifier

# Smaller tensors are not worth a node of the graph.
SMALLEST = 4096


def round_weights(network: Classifier) -> Classifier:
    """The same network with every weight rounded to float16, its batch normalisation folded into the convolutions.

    Folded first, because exporting folds too, and would make new weights of the rounded ones. TrainingError where a
    weight is beyond float16 (65504).
    """
    mean, std = network.statistics()
    head = nn.Linear(network.head.in_features, network.head.out_features)
    head.load_state_dict(network.head.state_dict())
    rounded = Classifier(fuse(network.backbone.eval()), head, mean, std).eval()
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            weight.copy_(weight.half().float())
            if not weight.isfinite().all():
                raise TrainingError(f"{name} has weights beyond 65504, which float16 cannot hold; export with --precision fp32")
    return rounded


def store_halves(model: onnx.ModelProto) -> None:
    """Stores each large initializer that float16 holds exactly as float16, cast back by a node that onnxruntime folds away."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size >= SMALLEST and np.array_equal(halves.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
