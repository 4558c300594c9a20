"""A recipe: everything that decides what training gives, in one frozen dataclass. The defaults are the paper's.

Ding et al., Extended Logit Normalization, CVPR 2026, arXiv 2504.11434: SGD with Nesterov momentum, weight decay on all
parameters, cosine per step without warm-up. The learning rate is never scaled: for another batch size it is the user's.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from service.bundle.preprocess import InputSpec
from training.choices import HIGHEST_MAGNITUDE, Augmentation, NetworkName

LossName = Literal["ce", "logitnorm", "elogitnorm"]
Precision = Literal["auto", "bf16", "fp32"]


class TrainingError(Exception):
    """What a person can put right: shown as one sentence, without a traceback."""


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of the same recipe on the same data and device give the same weights."""

    data: str
    validation: str | None = None
    calibration: str | None = None
    loss: LossName = "elogitnorm"
    network: NetworkName = "resnet18_32x32"
    width: int = 64
    size: int | None = None
    pretrained: bool = False
    initial: str | None = None
    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    final_lr: float = 1e-6
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation | None = None
    randaugment: int = 0
    randaugment_magnitude: int = 14
    regmixup: float = 0.0
    calibration_share: float = 0.1
    calibration_limit: int = 5000
    validation_share: float = 0.02
    validation_limit: int = 1000
    seed: int = 0
    precision: Precision = "auto"
    compile: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        checks = [
            # oneDNN 3.13 (torch 2.15) writes past its buffers when narrower ones are trained in fp32 on a CPU with AVX2 alone.
            ("width", self.width >= 8, "at least 8"),
            ("width", self.width == 64 or self.small, "64 for torchvision's networks; others are for those at 32 pixels"),
            ("width", self.width >= 24 or self.network != "airbench_32x32", "at least 24 for airbench_32x32"),
            ("size", self.size is None or 32 <= self.size <= 1024, "from 32 to 1024"),
            ("pretrained", not (self.pretrained and self.small), f"False for {self.network}: there are weights for the 224 networks only"),
            ("pretrained", not (self.pretrained and self.initial), "False with initial, whose weights are taken"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2 (batch normalisation)"),
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("final_lr", 0 <= self.final_lr < math.inf, "at least 0"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"at least 0 and less than epochs, {self.epochs}"),
            ("momentum", 0 < self.momentum < 1, "between 0 and 1 (Nesterov)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("randaugment", 0 <= self.randaugment <= 14, "from 0 to 14 operations"),
            ("randaugment_magnitude", 0 <= self.randaugment_magnitude <= HIGHEST_MAGNITUDE, f"from 0 to {HIGHEST_MAGNITUDE}"),
            ("regmixup", 0 <= self.regmixup < math.inf, "at least 0 (none)"),
            ("calibration_share", 0 <= self.calibration_share < 1, "at least 0 and below 1"),
            ("calibration_limit", self.calibration_limit >= 1, "at least 1"),
            ("validation_share", 0 < self.validation_share < 1, "between 0 and 1"),
            ("validation_limit", self.validation_limit >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ]
        for name, known in (("loss", get_args(LossName)), ("network", get_args(NetworkName)), ("precision", get_args(Precision))):
            checks.append((name, getattr(self, name) in known, " ".join(known)))
        checks.append(("augmentation", self.augmentation in (None, *get_args(Augmentation)), " ".join(get_args(Augmentation))))
        for name, good, allowed in checks:
            if not good:
                raise TrainingError(f"{name} is {getattr(self, name)}, allowed is {allowed}")

    @property
    def small(self) -> bool:
        return self.network.endswith("_32x32")

    @property
    def input(self) -> InputSpec:
        """What the trained network is served with: small pictures whole, others from the middle of a shorter side of 8/7."""
        size = self.size or (32 if self.small else 224)
        return InputSpec(size=size, resize=size if self.small else round(size * 8 / 7), crop=size)

    @property
    def training_input(self) -> InputSpec:
        """What training keeps of each picture: the whole resized square where the augmentation cuts windows from it."""
        if self.augment != "resized-crop-flip":
            return self.input
        return self.input.model_copy(update={"crop": self.input.resize, "size": self.input.resize})

    @property
    def augment(self) -> Augmentation:
        return self.augmentation or ("crop-flip" if self.small else "resized-crop-flip")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What differs from the defaults, by name. A batch is of one process: halve it for two, as the paper's two GPUs did.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar": {},
    "imagenet200": {"network": "resnet18_224x224", "epochs": 90, "batch_size": 256},
    # Its weights were trained on every training picture of ImageNet, so none of them can calibrate.
    "imagenet1k": {"network": "resnet50_224x224", "pretrained": True, "epochs": 30, "batch_size": 256, "lr": 0.001, "calibration_share": 0.0},
}


def default_run_folder(recipe: Recipe) -> Path:
    """runs/<data>-<network>-<loss>-s<seed>."""
    data = Path(recipe.data.partition("#")[0]).stem
    return Path("runs") / f"{data}-{recipe.network}-{recipe.loss}-s{recipe.seed}"
