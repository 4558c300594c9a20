import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from service.bundle.manifest import BundleError, load_bundle, npz
from service.ort import ort
from service.runtime import Runtime, WrongDevice, cpu_quota, cuda_usable
from tests.bundles import graph, pixels, write_bundle


def changed(change: Callable[[onnx.GraphProto], object]) -> bytes:
    model = graph()
    change(model.graph)
    return bytes(model.SerializeToString())


def rename_output(model: onnx.GraphProto) -> None:
    model.node.append(helper.make_node("Identity", ["scores"], ["oddness"]))
    model.output[1].name = "oddness"


def rename_input(model: onnx.GraphProto) -> None:
    model.input[0].name = "x"
    for node in model.node:
        for place, name in enumerate(node.input):
            if name == "images":
                node.input[place] = "x"


def more_classes(model: onnx.GraphProto) -> None:
    model.node.append(helper.make_node("Concat", ["probabilities", "probabilities"], ["doubled"], axis=1))
    model.output[0].CopyFrom(helper.make_tensor_value_info("doubled", onnx.TensorProto.FLOAT, ["batch", 6]))
    model.output[0].name = "doubled"


def fixed_batch(model: onnx.GraphProto) -> None:
    model.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def other_size(model: onnx.GraphProto) -> None:
    model.input[0].type.tensor_type.shape.dim[1].dim_value = 16


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rename_output, "has input images, output probabilities, output oddness; it must have"),
        (rename_input, "has input x, .*; it must have input images"),
        (more_classes, "has input images, output doubled"),
        (fixed_batch, r"input images is tensor\(uint8\)\[4, 8, 8, 3\], it must be"),
        (other_size, r"input images is tensor\(uint8\)\['batch', 16, 8, 3\], it must be"),
    ],
)
def test_a_graph_that_does_not_fit_its_manifest_is_refused(tmp_path: Path, change: Callable[[onnx.GraphProto], object], sentence: str) -> None:
    folder = write_bundle(tmp_path, model=changed(change))
    with pytest.raises(BundleError, match=sentence):
        Runtime(load_bundle(folder), "cpu", 1)


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, model=b"not a graph")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be opened"):
        Runtime(load_bundle(folder), "cpu", 1)


@pytest.mark.parametrize(("key", "off"), [("probabilities", 0.01), ("scores", 0.1), ("scores", np.inf)])
def test_a_golden_answer_that_is_off_is_refused(tmp_path: Path, models_dir: Path, key: str, off: float) -> None:
    golden = dict(np.load(io.BytesIO((models_dir / "tiny/1/golden.npz").read_bytes())))
    golden[key][5, 1] += off if np.isfinite(off) else 1e6
    folder = write_bundle(tmp_path, golden=npz(**golden))
    with pytest.raises(BundleError, match=f"{key} of the golden images are off by"):
        Runtime(load_bundle(folder), "cpu", 1).check_golden()


def test_a_sound_bundle_passes_its_golden_check(models_dir: Path) -> None:
    Runtime(load_bundle(models_dir / "tiny/1"), "cpu", 1).check_golden()


def test_cuda_is_refused_where_there_is_none(models_dir: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(WrongDevice, match="device cuda was asked for, but"):
        Runtime(load_bundle(models_dir / "tiny/1"), "cuda", 1)


@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers() or not cuda_usable(), reason="CUDA needs a GPU")
def test_cuda_answers_what_the_cpu_answers() -> None:
    bundle = load_bundle(Path(__file__).parents[2] / "models/cifar10-airbench/1")
    cuda, cpu = Runtime(bundle, "cuda"), Runtime(bundle, "cpu")
    assert (cuda.device, cuda.workers) == ("cuda", 1)
    cuda.warm()
    cuda.check_golden()
    images = np.concatenate([bundle.golden.images] * 3)
    for count in (1, 3, 32, 33, 96):
        got, want = cuda.run(images[:count]), cpu.run(images[:count])
        np.testing.assert_allclose(got[0], want[0], atol=1e-3)
        np.testing.assert_allclose(got[1], want[1], atol=1e-3 * max(1.0, float(np.ptp(want[1]))))


def test_auto_says_which_device_it_took(models_dir: Path) -> None:
    runtime = Runtime(load_bundle(models_dir / "tiny/1"), "auto", 1)
    assert (runtime.device, runtime.provider) in {("cpu", "CPUExecutionProvider"), ("cuda", "CUDAExecutionProvider")}


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_picture_has_the_same_scores_alone_and_in_any_batch(models_dir: Path, batch_size: int) -> None:
    runtime = Runtime(load_bundle(models_dir / "tiny/1"), "cpu", 1)
    images = pixels(64, 7)
    alone = np.concatenate([runtime.run(images[place : place + 1])[1] for place in range(batch_size)])
    np.testing.assert_allclose(runtime.run(images[:batch_size])[1], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, len(os.sched_getaffinity(0))),
        ({"cpu.max": "99900000 100000\n"}, len(os.sched_getaffinity(0))),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, len(os.sched_getaffinity(0))),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_the_cpus_to_use_are_those_that_the_cgroup_allows(tmp_path: Path, files: dict[str, str], quota: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


OPEN = """
import sys
from pathlib import Path
from service.bundle.manifest import load_bundle
from service.runtime import Runtime
Runtime(load_bundle(Path(sys.argv[1])))
"""


def test_onnxruntime_leaves_no_identifier_for_its_makers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    # CUDA would keep what it compiles in the home folder.
    environment |= {"HOME": str(home), "CUDA_CACHE_PATH": str(tmp_path / "cuda")}
    subprocess.run([sys.executable, "-c", OPEN, str(write_bundle(tmp_path))], env=environment, check=True)
    assert list(home.rglob("*")) == []
