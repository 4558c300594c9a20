"""The release gate: what `export` refuses to ship, each by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainingError
from training.metrics import separation

Array = NDArray[Any]
PARITY = 1e-4


class ReleaseRefused(TrainingError):
    """A score or a graph that must not be served."""


def check_scores(inside: Mapping[str, Array], outside: Mapping[str, Array]) -> dict[str, float]:
    """AUROC of each score, ID validation against OOD validation. Refuses at once all that are not finite or do not get above one half."""
    found: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for key, scores in inside.items():
        if not (np.isfinite(scores).all() and np.isfinite(outside[key]).all()):
            wrong[key] = "gives values that are not finite"
            continue
        found[key] = separation(scores, outside[key]).auroc
        if not found[key] > 0.5:
            wrong[key] = f"has AUROC {found[key]:.3f}, not above 0.5: it does not tell ID from OOD"
    if wrong:
        said = "; ".join(f"{key} {what}" for key, what in wrong.items())
        good = ",".join(key for key in inside if key not in wrong)
        cure = f"with the others: --postprocessors {good}" if good else "no score is left"
        ours, theirs = (len(next(iter(scores.values()))) for scores in (inside, outside))
        raise ReleaseRefused(
            f"{len(wrong)} of {len(inside)} scores are refused on {ours} ID and {theirs} OOD validation pictures: {said}. "
            f"Other OOD pictures can be given with --ood-validation; {cure}"
        )
    return found


def check_parity(what: str, torch_values: Array, graph_values: Array) -> None:
    """Refuses a graph that differs from torch by more than 1e-4 of the range of the values (or of one, if that is more)."""
    scale = max(1.0, float(np.ptp(torch_values)))
    off = float(np.abs(torch_values - graph_values).max()) / scale
    if not off <= PARITY:
        raise ReleaseRefused(f"{what}: the exported graph differs from torch by {off:.2g}, at most {PARITY:g} is allowed")


def shuffled_patches(images: torch.Tensor, patch: int, seed: int = 0) -> torch.Tensor:
    """Pictures (N, H, W, 3) cut into patches that are put back in random order: a stand-in for an OOD validation set."""
    count, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    tiles = images[:, : rows * patch, : columns * patch].reshape(count, rows, patch, columns, patch, channels)
    tiles = tiles.permute(0, 1, 3, 2, 4, 5).reshape(count, rows * columns, patch, patch, channels)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(count, rows * columns, generator=generator).argsort(dim=1)
    tiles = tiles[torch.arange(count)[:, None], order].reshape(count, rows, columns, patch, patch, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(count, rows * patch, columns * patch, channels)
