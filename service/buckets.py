"""Batches on a GPU: a few fixed sizes, each with buffers on the device that never move, so that no request meets a new shape.

A batch is padded to the next size; what stands in the rest does not matter, because rows do not see each other.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Bundle
from service.bundle.preprocess import Pixels
from service.ort import ort


def bucket_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Powers of two, and the largest batch itself: at most half of a batch is padding."""
    powers = (2**power for power in range(max_batch_size.bit_length()))
    return tuple(sorted({*powers, max_batch_size}))


class Buckets:
    """One session bound to one set of buffers for each batch size. `run` may be called from any thread."""

    def __init__(self, bundle: Bundle, session: ort.InferenceSession, device: str, max_batch_size: int) -> None:
        self.sizes = bucket_sizes(max_batch_size)
        self.lock = threading.Lock()
        self.bound = {size: Bound(bundle, session, device, size) for size in self.sizes}

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images uint8 (N, H, W, 3), however many -> probabilities (N, C) and raw scores (N, P)."""
        most = self.sizes[-1]
        with self.lock:
            parts = [self.run_one(images[start : start + most]) for start in range(0, len(images), most)]
        probabilities, scores = (part[0] if len(parts) == 1 else np.concatenate(part) for part in zip(*parts, strict=True))
        return probabilities, scores

    def run_one(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.bound[next(size for size in self.sizes if size >= len(images))].run(images)


class Bound:
    """The session bound to the buffers of one batch size."""

    def __init__(self, bundle: Bundle, session: ort.InferenceSession, device: str, size: int) -> None:
        manifest = bundle.manifest
        side = manifest.input.size
        self.session = session
        self.staged = np.zeros((size, side, side, 3), np.uint8)
        self.images = ort.OrtValue.ortvalue_from_shape_and_type(self.staged.shape, np.uint8, device, 0)
        self.probabilities = ort.OrtValue.ortvalue_from_shape_and_type([size, len(manifest.classes)], np.float32, device, 0)
        self.scores = ort.OrtValue.ortvalue_from_shape_and_type([size, len(manifest.postprocessors)], np.float32, device, 0)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input("images", self.images)
        self.binding.bind_ortvalue_output("probabilities", self.probabilities)
        self.binding.bind_ortvalue_output("scores", self.scores)

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(images)
        self.staged[:count] = images
        self.images.update_inplace(self.staged)
        self.session.run_with_iobinding(self.binding)
        # Copied: on the CPU these are the buffers themselves, which the next batch overwrites.
        return self.probabilities.numpy()[:count].copy(), self.scores.numpy()[:count].copy()
