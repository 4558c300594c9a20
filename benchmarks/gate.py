"""What the gate costs: the exported graph with all scores against the same network with logits alone.

    python benchmarks/gate.py models/cifar10-airbench/1

The plain graph is cut out of the bundle's own, so both have the same weights; they run in turns, in one process, with
the service's session options, and the ratio is that of the medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
from onnx.utils import Extractor

from service.bundle.manifest import load_bundle
from service.runtime import cpu_quota, open_session

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bundle", type=Path)
parser.add_argument("--threads", type=int, default=cpu_quota())
parser.add_argument("--seconds", type=float, default=20, help="per batch size")
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()

bundle = load_bundle(arguments.bundle)
whole = onnx.load_from_string(bundle.model)
# The head is the one Gemm of the network that gives one logit per class, and the first in the graph.
head = next(node for node in whole.graph.node if node.op_type == "Gemm")
logits = onnx.helper.make_tensor_value_info(head.output[0], onnx.TensorProto.FLOAT, ["batch", len(bundle.manifest.classes)])
if head.output[0] not in {value.name for value in whole.graph.value_info}:
    whole.graph.value_info.append(logits)
plain = Extractor(whole).extract_model(["images"], [head.output[0]])
sessions = {
    "gated": open_session(bundle.model, bundle.folder, "cpu", arguments.threads),
    "plain": open_session(plain.SerializeToString(), bundle.folder, "cpu", arguments.threads),
}

size = bundle.manifest.input.size
result = {}
for batch in (1, 32):
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    took: dict[str, list[float]] = {name: [] for name in sessions}
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"images": images})
            took[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in took.items()}
    ratio = medians["gated"] / medians["plain"]
    result[str(batch)] = {**{f"{name}_ms": round(value, 4) for name, value in medians.items()}, "ratio": round(ratio, 4)}
    print(f"batch {batch}: plain {medians['plain']:.3f} ms, gated {medians['gated']:.3f} ms, ratio {ratio:.3f} ({len(took['plain'])} runs each)")
if arguments.json:
    arguments.json.write_text(json.dumps({"threads": arguments.threads, "batches": result}, indent=1) + "\n")
