"""Trains one recipe: `python -m training train`, or the same under `torchrun` on several devices or machines.

Order and augmentation of a step depend on the seed, the epoch and the step alone, so a run that was stopped and resumed
ends where one that was not stopped ends.
"""

import math
import os
import signal
import subprocess
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import checkpoint
from training.augment import augment
from training.config import Recipe, TrainingError
from training.data import Pictures, load
from training.losses import LOSSES
from training.networks import IMAGENET_MEAN, IMAGENET_STD, Classifier, build_network
from training.parts import open_parts


class Stopped(Exception):
    """SIGTERM or SIGINT came; the checkpoint is written."""


def code_version() -> str:
    """The version of this code: the package's, with the commit where there is one."""
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    commit = found.stdout.strip()
    return version("oodgate") + (f"+{commit}" if commit else "")


def channel_statistics(pictures: Pictures) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in [0, 1], over at most 50,000 training pictures."""
    chosen = torch.linspace(0, len(pictures) - 1, min(len(pictures), 50_000)).long()
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for images, _ in pictures.batches(chosen.split(512)):
        pixels = images.view(-1, 3).double() / 255
        total += pixels.sum(dim=0)
        squares += (pixels**2).sum(dim=0)
        count += len(pixels)
    mean = total / count
    std = (squares / count - mean**2).clamp_min(1e-6).sqrt()
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in std.tolist()]


class Trainer:
    """One process of one run."""

    def __init__(self, recipe: Recipe, run: Path, resume: bool = False) -> None:
        self.recipe, self.run = recipe, run
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")
        state = self.saved_state(resume)
        torch.manual_seed(recipe.seed)
        parts = open_parts(recipe)
        self.classes = parts.train.classes
        self.train_set = load(parts.train, recipe.training_input, "training pictures", recipe.skip_unreadable)
        self.validation_set = load(parts.validation, recipe.input, "validation pictures", recipe.skip_unreadable)
        if len(self.train_set) < recipe.batch_size * self.world:
            raise TrainingError(
                f"batch_size {recipe.batch_size} on {self.world} process(es) needs {recipe.batch_size * self.world} training pictures, "
                f"there are {len(self.train_set)}"
            )
        if state is not None:
            self.mean, self.std = state["mean"], state["std"]
        elif recipe.pretrained:
            self.mean, self.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        else:
            self.mean, self.std = channel_statistics(self.train_set)
        network = build_network(recipe.network, len(self.classes), self.mean, self.std, recipe.width, recipe.pretrained)
        if self.world > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network: Classifier = network.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        self.generator = torch.Generator()
        self.epoch, self.step, self.sums = 0, 0, [0.0, 0.0, 0.0]
        self.best = -1.0
        if state is not None:
            self.restore(state)
        module: nn.Module = self.network
        if self.world > 1:
            module = DistributedDataParallel(module, [self.device.index] if self.device.type == "cuda" else None)
        self.forward = torch.compile(module) if recipe.compile else module
        self.stopping = False

    @property
    def steps(self) -> int:
        """Per epoch. The last pictures of the order that fill no batch wait for the next epoch's order."""
        return len(self.train_set) // (self.recipe.batch_size * self.world)

    def saved_state(self, resume: bool) -> dict[str, Any] | None:
        last = self.run / "last.pt"
        if not resume:
            if last.exists():
                raise TrainingError(f"{last} exists; give --resume to go on, or another --out")
            return None
        if not last.exists():
            return None
        state = checkpoint.read(last)
        if Recipe(**state["recipe"]) != replace(self.recipe):
            changed = [key for key, value in self.recipe.as_dict().items() if state["recipe"].get(key) != value]
            raise TrainingError(f"{last} was trained with another {', '.join(changed)}; resume with the same recipe")
        if state["world"] != self.world:
            raise TrainingError(f"{last} was trained on {state['world']} process(es), not {self.world}")
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.sums, self.best = state["epoch"], state["step"], state["sums"], state["best"]
        self.generator.set_state(state["generators"][self.rank])

    def save(self) -> None:
        generators: list[Any] = [None] * self.world
        if self.world > 1:
            distributed.all_gather_object(generators, self.generator.get_state())
        else:
            generators = [self.generator.get_state()]
        if self.rank:
            return
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "generators": generators}
        state |= {"epoch": self.epoch, "step": self.step, "sums": self.sums, "best": self.best, "world": self.world}
        checkpoint.save(self.run / "last.pt", state | self.description())

    def description(self) -> dict[str, Any]:
        return {"recipe": self.recipe.as_dict(), "classes": list(self.classes), "mean": self.mean, "std": self.std}

    def learning_rate(self) -> float:
        """Cosine over all steps, from lr to final_lr."""
        done = (self.epoch * self.steps + self.step) / (self.recipe.epochs * self.steps)
        return self.recipe.final_lr + (self.recipe.lr - self.recipe.final_lr) * (1 + math.cos(math.pi * done)) / 2

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        images = augment(images.to(self.device), self.recipe.augment, self.recipe.input.size, self.generator)
        labels = labels.to(self.device)
        with self.autocast():
            _, logits = self.forward(images)
        loss = LOSSES[self.recipe.loss](logits, self.network.head, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).float().mean()

    def train_epoch(self) -> None:
        batch, recipe = self.recipe.batch_size, self.recipe
        if self.step == 0:
            self.generator.manual_seed(recipe.seed * 1_000_003 + self.epoch * 1009 + self.rank)
        order = torch.randperm(len(self.train_set), generator=torch.Generator().manual_seed(recipe.seed + 7919 * self.epoch))
        mine = order[self.rank :: self.world][: self.steps * batch].split(batch)[self.step :]
        self.network.train()
        label = f"epoch {self.epoch + 1}/{recipe.epochs}"
        bar = tqdm(total=self.steps, initial=self.step, desc=label, unit="step", disable=self.rank > 0 or None, leave=False)
        with bar:
            for images, labels in self.train_set.batches(mine):
                loss, accuracy = self.train_step(images, labels)
                self.step += 1
                self.sums = [self.sums[0] + loss.item(), self.sums[1] + accuracy.item(), self.sums[2] + 1]
                if not math.isfinite(self.sums[0]):
                    raise TrainingError(
                        f"the loss is {loss.item()} in epoch {self.epoch + 1}, step {self.step}; lower --lr (now {recipe.lr}). "
                        f"{self.run / 'last.pt'} holds the last good epoch"
                    )
                bar.update()
                bar.set_postfix(loss=f"{self.sums[0] / self.sums[2]:.3f}", acc=f"{self.sums[1] / self.sums[2]:.3f}")
                if self.someone_stops():
                    self.save()
                    raise Stopped(f"stopped in epoch {self.epoch + 1} after step {self.step}; --resume goes on from there")

    def someone_stops(self) -> bool:
        """Whether any process was told to stop; all must leave the epoch at the same step."""
        if self.world == 1:
            return self.stopping
        flag = torch.tensor(float(self.stopping), device=self.device)
        distributed.all_reduce(flag)
        return bool(flag.item() > 0)

    @torch.inference_mode()
    def validate(self) -> float:
        """Share of validation pictures classified rightly."""
        self.network.eval()
        right = 0
        for images, labels in self.validation_set.batches(torch.arange(len(self.validation_set)).split(500)):
            with self.autocast():
                _, logits = self.network(images.to(self.device))
            right += int((logits.argmax(dim=1).cpu() == labels).sum())
        return right / len(self.validation_set)

    def fit(self) -> float:
        """Trains to the last epoch; the best validation accuracy. The later of equals wins."""
        signal.signal(signal.SIGTERM, self.on_signal)
        signal.signal(signal.SIGINT, self.on_signal)
        writer = SummaryWriter(self.run) if self.rank == 0 else None
        began, trained = time.monotonic(), 0
        while self.epoch < self.recipe.epochs:
            start = time.monotonic()
            first, rate = self.step, self.learning_rate()
            self.train_epoch()
            seconds = time.monotonic() - start
            images = (self.steps - first) * self.recipe.batch_size * self.world
            loss, accuracy = self.sums[0] / self.sums[2], self.sums[1] / self.sums[2]
            validation = self.validate()
            self.epoch, self.step, self.sums, trained = self.epoch + 1, 0, [0.0, 0.0, 0.0], trained + 1
            better = validation >= self.best
            self.best = max(self.best, validation)
            if writer is not None:
                if better:
                    weights = {"network": self.network.state_dict(), "epoch": self.epoch, "code_version": code_version()}
                    checkpoint.save(self.run / "best.pt", weights | {"validation_accuracy": validation} | self.description())
                left = (time.monotonic() - began) / trained * (self.recipe.epochs - self.epoch)
                print(
                    f"epoch {self.epoch}/{self.recipe.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  validation {validation:.4f}  "
                    f"{images / seconds:.0f} images/s  {left / 60:.0f} min left",
                    flush=True,
                )
                values = {"loss": loss, "accuracy/train": accuracy, "accuracy/validation": validation, "lr": rate}
                for name, value in (values | {"images_per_second": images / seconds}).items():
                    writer.add_scalar(name, value, self.epoch)
            self.save()
        if writer is not None:
            writer.close()
        return self.best

    def on_signal(self, number: int, frame: object) -> None:
        self.stopping = True


def train(recipe: Recipe, run: Path, resume: bool = False) -> float:
    """Trains a recipe into the folder `run`; the best validation accuracy.

    Under torchrun every process calls this. SyncBatchNorm exists for CUDA only: on CPUs the first process's running
    statistics count, as DistributedDataParallel broadcasts them.
    """
    parallel = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if parallel:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        return Trainer(recipe, run, resume).fit()
    finally:
        if parallel:
            distributed.destroy_process_group()
