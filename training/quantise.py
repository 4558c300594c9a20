"""Convolutions in 8-bit integers (static quantisation), their weights in 7: a quarter of their bytes.

Head, probabilities and scores stay in float32.
"""

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service.bundle.preprocess import Pixels

BATCH = 50


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Pictures (N, H, W, 3) as onnxruntime asks for them."""

    def __init__(self, images: Pixels) -> None:
        self.left = iter([images[start : start + BATCH] for start in range(0, len(images), BATCH)])

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self.left, None)
        return None if batch is None else {"images": batch}


def quantise(model: bytes, images: Pixels) -> bytes:
    """The same graph with quantised convolutions; `images` (N, H, W, 3) give the ranges of what flows between them.

    They must not be the calibration pictures, whose scores would then be nearer to the graph's than those of pictures to come.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            onnx.load_from_string(model),
            path,
            Batches(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            # Weights of 7 bits: CPUs without VNNI add two products of 8 bits in 16, which saturates, and accuracy is lost.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()
