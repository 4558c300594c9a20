"""The only file that knows onnxruntime: opens a bundle's graph on a device and runs batches through it."""

import math
import os
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Bundle, BundleError
from service.bundle.preprocess import Pixels

# Before the import, or onnxruntime writes an identifier into the home folder and reports its use to its makers (1.32 on Linux does).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda"]
GOLDEN_TOLERANCE = 1e-3


class WrongDevice(Exception):
    """The device that was asked for is not the one that would be used."""


def check_installation() -> None:
    """Refuses two onnxruntimes in one environment: they overwrite each other's files, and CUDA is lost silently."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    if len(found) > 1:
        raise WrongDevice(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then install oodgate[cpu] or oodgate[gpu], not both"
        )


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def cpu_quota() -> int:
    """CPUs this process may use: the cgroup's quota where there is one (onnxruntime itself sees the whole host)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


class Runtime:
    """A graph ready to run. `run` is thread-safe and releases the GIL while the graph computes."""

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        """Raises WrongDevice, or BundleError for a graph that does not fit its manifest."""
        check_installation()
        self.bundle = bundle
        self.session = open_session(bundle.model, bundle.folder, device, threads or cpu_quota())
        self.provider: str = self.session.get_providers()[0]
        check_graph(bundle, self.session)

    @property
    def device(self) -> str:
        return "cuda" if self.provider == "CUDAExecutionProvider" else "cpu"

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images uint8 (N, H, W, 3) -> probabilities (N, C) and raw scores (N, P)."""
        probabilities, scores = self.session.run(["probabilities", "scores"], {"images": images})
        return probabilities, scores

    def warm(self, max_batch_size: int) -> None:
        """Lets the session allocate, and CUDA choose its algorithms, before anyone waits for it."""
        size = self.bundle.manifest.input.size
        # On CPUs only the very first run is slow; on CUDA the first of each batch size.
        largest = max_batch_size if self.device == "cuda" else 1
        for batch_size in range(1, largest + 1):
            self.run(np.zeros((batch_size, size, size, 3), np.uint8))

    def check_golden(self) -> None:
        """Replays the bundle's golden images on the device really used. BundleError if an answer is off."""
        golden = self.bundle.golden
        probabilities, scores = self.run(golden.images)
        for what, got, want in (("probabilities", probabilities, golden.probabilities), ("scores", scores, golden.scores)):
            # Scores have no common unit: the tolerance is relative to how much each one varies.
            scale = np.maximum(np.ptp(want, axis=0), 1.0) if what == "scores" else 1.0
            off = float(np.max(np.abs(got - want) / scale))
            if not off <= GOLDEN_TOLERANCE:
                raise BundleError(f"{self.bundle.folder}: {what} of the golden images are off by {off:.3g}, at most {GOLDEN_TOLERANCE:g} is allowed")


def open_session(model: bytes, folder: Path, device: Device, threads: int) -> ort.InferenceSession:
    """A session on the device that was asked for; `folder` is for messages. Raises WrongDevice or BundleError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the cores that decode the next pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    cuda = device == "cuda" or (device == "auto" and installed("onnxruntime-gpu") and cuda_usable())
    if cuda:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise WrongDevice(f"device {device} was asked for, but this onnxruntime was built without CUDA; install oodgate[gpu], not oodgate[cpu]")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers: list[object] = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})]
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    else:
        providers = ["CPUExecutionProvider"]
    # onnxruntime lets go of the GIL while it reads a file, but not while it reads bytes: 100 MB would stop the event loop for 0.3 s. So the
    # bytes, which are those that were hashed, become a file that lies in no folder, beside which no external data can be.
    file = os.memfd_create("model.onnx")
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(model)
        session = ort.InferenceSession(f"/proc/self/fd/{file}", options, providers=providers)
    except Exception as exc:  # noqa: BLE001 -- onnxruntime raises its own kinds, which share no base
        if cuda:
            raise WrongDevice(f"device {device} was asked for, but onnxruntime cannot use CUDA: {exc}") from None
        raise BundleError(f"{folder}: model.onnx cannot be opened: {exc}") from None
    finally:
        os.close(file)
    if cuda and session.get_providers()[0] != "CUDAExecutionProvider":
        raise WrongDevice(f"device {device} was asked for, but onnxruntime runs on {session.get_providers()[0]}")
    return session


def cuda_usable() -> bool:
    """Whether there is an NVIDIA device to use: what `auto` goes by. Providers listed by onnxruntime do not tell."""
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


def check_graph(bundle: Bundle, session: ort.InferenceSession) -> None:
    """BundleError unless inputs and outputs have the names, types and shapes that the manifest implies."""
    manifest = bundle.manifest
    size = manifest.input.size
    wanted = {
        "input images": ("tensor(uint8)", [None, size, size, 3]),
        "output probabilities": ("tensor(float)", [None, len(manifest.classes)]),
        "output scores": ("tensor(float)", [None, len(manifest.postprocessors)]),
    }
    found = {f"input {node.name}": node for node in session.get_inputs()} | {f"output {node.name}": node for node in session.get_outputs()}
    if found.keys() != wanted.keys():
        raise BundleError(f"{bundle.folder}: model.onnx has {', '.join(found)}; it must have {', '.join(wanted)}")
    for name, (kind, shape) in wanted.items():
        actual = [length if isinstance(length, int) else None for length in found[name].shape]
        if found[name].type != kind or actual != shape:
            raise BundleError(f"{bundle.folder}: model.onnx: {name} is {found[name].type}{found[name].shape}, it must be {kind}{shape}")
