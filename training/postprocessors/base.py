"""What every score promises.

A post-processor turns features (N, D) and logits (N, C) into one score per image (N,), **higher = stranger**. It is
fitted once, on ID data alone; what it learns are buffers, so it travels into the exported graph. Rows do not see each
other: a verdict never depends on who shares the batch. Logits are raw (f, not f / D(z)) and everything is float32.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a network says of a set of pictures: features (N, D), logits (N, C), and their labels (N,)."""

    features: Tensor
    logits: Tensor
    labels: Tensor


class Postprocessor(nn.Module):
    """One OOD score.

    `key` is its name everywhere: on the command line, in bundles, over HTTP, in metrics. `sweep` names the arguments of
    the constructor that OpenOOD v1.5 searches on OOD validation pictures, and the values it tries.
    """

    key: ClassVar[str]
    sweep: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        """Learns what the score needs from training and validation pictures; most need nothing."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        raise NotImplementedError
