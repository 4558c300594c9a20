"""What knows onnxruntime, with `buckets`: opens a bundle's graph on a device and runs batches through it."""

import math
import os
import re
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.buckets import Buckets
from service.bundle.manifest import Bundle, BundleError
from service.bundle.preprocess import Pixels
from service.ort import ort

Device = Literal["auto", "cpu", "cuda"]
GOLDEN_TOLERANCE = 1e-3
CUDA_OPTIONS = {
    # The default tries every algorithm whenever it meets a new batch size, for up to a second.
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    # Thresholds were calibrated in float32: TF32 has three digits.
    "use_tf32": "0",
}
# Convolutions and matrix products, fused, quantised or plain.
HEAVY = re.compile("Conv|Gemm|MatMul")


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


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: the cgroup's quota where there is one (onnxruntime itself sees the whole host)."""
    cores = len(os.sched_getaffinity(0))
    try:
        if (whole := cgroup / "cpu.max").exists():
            quota, period = whole.read_text().split()
        else:  # version 1 of cgroups
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return cores if quota == "max" or int(quota) < 0 else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


class Runtime:
    """A graph ready to run. `run` is thread-safe and releases the GIL while the graph computes."""

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None, max_batch_size: int = 32) -> None:
        """Raises WrongDevice, or BundleError for a graph that does not fit its manifest."""
        check_installation()
        self.bundle = bundle
        threads = threads or cpu_quota()
        self.session = open_session(bundle.model, bundle.folder, device, threads)
        self.provider: str = self.session.get_providers()[0]
        check_graph(bundle, self.session)
        self.max_batch_size = max_batch_size
        self.buckets = Buckets(bundle, self.session, self.device, max_batch_size) if self.device == "cuda" else None
        # A GPU runs one batch after another. CPUs are busiest with a batch each: threads that share one wait for each other at every node.
        self.workers = threads if self.device == "cpu" else 1

    @property
    def device(self) -> str:
        return "cuda" if self.provider == "CUDAExecutionProvider" else "cpu"

    @cached_property
    def single(self) -> ort.InferenceSession:
        """A session of one thread, which only those need who run batches side by side."""
        return open_session(self.bundle.model, self.bundle.folder, "cpu", 1) if self.workers > 1 else self.session

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images uint8 (N, H, W, 3) -> probabilities (N, C) and raw scores (N, P)."""
        if self.buckets is not None:
            return self.buckets.run(images)
        return outputs(self.session, images)

    def run_beside(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `run`, on a single CPU: for when the others have batches of their own."""
        return outputs(self.single, images)

    def warm(self) -> None:
        """Lets the session allocate, and CUDA choose its algorithms, before anyone waits for it.

        The largest batch first: what it needs is then there, and the arena grows no more once requests come.
        """
        size = self.bundle.manifest.input.size
        for batch_size in reversed(self.buckets.sizes if self.buckets is not None else (1, self.max_batch_size)):
            images = np.zeros((batch_size, size, size, 3), np.uint8)
            self.run(images)
            if self.workers > 1:
                self.run_beside(images)

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


def outputs(session: ort.InferenceSession, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    probabilities, scores = session.run(["probabilities", "scores"], {"images": images})
    return probabilities, scores


def open_session(model: bytes, folder: Path, device: Device, threads: int) -> ort.InferenceSession:
    """A session on the device that was asked for; `folder` is for messages. Raises WrongDevice or BundleError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the cores that decode the next pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # So that it can be asked where each node really runs.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    cuda = device == "cuda" or (device == "auto" and installed("onnxruntime-gpu") and cuda_usable())
    if cuda:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise WrongDevice(f"device {device} was asked for, but this onnxruntime was built without CUDA; install oodgate[gpu], not oodgate[cpu]")
        providers: list[object] = [("CUDAExecutionProvider", CUDA_OPTIONS), "CPUExecutionProvider"]
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
    if cuda:
        check_cuda_is_used(session, device)
    return session


def check_cuda_is_used(session: ort.InferenceSession, device: Device) -> None:
    """Raises WrongDevice unless the session is on CUDA with all that costs time. onnxruntime falls back without a word.

    Its own strict option would also refuse graphs with a small node that has no CUDA kernel, which do no harm.
    """
    if (provider := session.get_providers()[0]) != "CUDAExecutionProvider":
        raise WrongDevice(f"device {device} was asked for, but onnxruntime runs on {provider}")
    elsewhere = heavy_nodes(session, lambda provider: provider != "CUDAExecutionProvider")
    if elsewhere:
        raise WrongDevice(f"device {device} was asked for, but onnxruntime runs {', '.join(sorted(elsewhere))} of the graph elsewhere")


def heavy_nodes(session: ort.InferenceSession, where: Callable[[str], bool]) -> set[str]:
    """The kinds of costly nodes that the session has put on such providers. Needs a session that records its assignment."""
    subgraphs = (subgraph for subgraph in session.get_provider_graph_assignment_info() if where(subgraph.ep_name))
    return {node.op_type for subgraph in subgraphs for node in subgraph.get_nodes() if HEAVY.search(node.op_type)}


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
