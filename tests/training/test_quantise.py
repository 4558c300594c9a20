"""What 8 bits do to a convolution, whatever instructions the CPU has for them."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.ort import ort
from training.quantise import quantise


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_sums_of_large_products_do_not_saturate(weight: float) -> None:
    # CPUs without VNNI add two products of 8 bits in 16: 255 * 127 * 2 does not fit.
    weights = numpy_helper.from_array(np.full((4, 16, 3, 3), weight, np.float32), "weights")
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "weights"], ["sums"], pads=[1, 1, 1, 1]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 16, 8, 8])]
    outputs = [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["batch", 4, 8, 8])]
    graph = helper.make_graph(nodes, "sums", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = np.random.default_rng(0).integers(200, 256, (50, 16, 8, 8), np.uint8)
    exact, quantised = (
        ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
        for data in (model.SerializeToString(), quantise(model.SerializeToString(), images))
    )
    assert np.abs(quantised - exact).max() < 0.02 * np.abs(exact).max()
