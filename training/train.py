"""Trains one recipe: `python -m training train`, or the same under `torchrun` on several devices or machines.

Order and augmentation of a step depend on the seed, the epoch and the step alone, so a run that was stopped and resumed
ends where one that was not stopped ends.
"""

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training import checkpoint
from training.augment import augment
from training.checkpoint import check_place, code_version, saved_state
from training.config import Recipe, TrainingError
from training.data import channel_statistics, load
from training.devices import computes_bf16, own_device
from training.lineage import load_initial
from training.losses import LOSSES, Loss
from training.networks import IMAGENET_MEAN, IMAGENET_STD, Classifier, build_network
from training.parts import check_classes, check_loss, check_pretrained, open_parts
from training.processes import Stopped, one_goes_ahead, process_group, signals, stop_reading, world_size
from training.regmixup import make_batch
from training.scalars import Scalars
from training.step import Step
from training.tally import Tally


class Trainer:
    """One process of one run, from its beginning or from the state that last.pt holds."""

    def __init__(self, recipe: Recipe, run: Path, state: dict[str, Any] | None = None, loss: Loss | None = None) -> None:
        self.recipe, self.run, self.loss = recipe, run, loss or LOSSES[recipe.loss]
        self.rank, self.local_rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0")), world_size()
        self.device = own_device(self.local_rank)
        torch.manual_seed(recipe.seed)
        with one_goes_ahead(self.local_rank):
            parts = open_parts(recipe)
        self.classes, self.parts_digest = parts.train.classes, parts.digest()
        check_loss(recipe.loss, len(self.classes))
        check_pretrained(recipe, len(self.classes))
        if state is not None and state["parts_digest"] != self.parts_digest:
            raise TrainingError(f"{run / 'last.pt'} was trained with other pictures than {recipe.data} has now; put them back, or give another --out")
        self.train_set = load(parts.train, recipe.training_input, "training pictures", recipe.skip_unreadable)
        self.validation_set = load(parts.validation, recipe.input, "validation pictures", recipe.skip_unreadable)
        check_classes(self.train_set.source, f"the readable training pictures of {recipe.data}")
        if len(self.train_set) < recipe.batch_size * self.world:
            raise TrainingError(
                f"batch_size {recipe.batch_size} on {self.world} process(es) needs {recipe.batch_size * self.world} training pictures, "
                f"there are {len(self.train_set)}"
            )
        initial = load_initial(recipe, parts) if recipe.initial and state is None else None
        if state is not None:
            self.mean, self.std = state["mean"], state["std"]
        elif initial is not None:
            self.mean, self.std = initial.network.statistics()
        elif recipe.pretrained:
            self.mean, self.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        else:
            self.mean, self.std = channel_statistics(self.train_set)
        self.train_set.move(self.device)
        self.validation_set.move(self.device)
        network = initial.network if initial else self.build_network(pretrained=recipe.pretrained and state is None)
        if initial is None and state is None:
            network.whiten(lambda: self.train_set.take(torch.linspace(0, len(self.train_set) - 1, min(len(self.train_set), 2000)).long()))
        if self.world > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network: Classifier = network.to(self.device).to(memory_format=torch.channels_last)
        # On the device, where a recorded step reads it; of the updates only the fused one can.
        fused = self.device.type == "cuda" or None
        self.rate = torch.tensor(recipe.lr, device=self.device, dtype=torch.float32 if fused else torch.float64)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), self.rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True, fused=fused
        )
        self.generator = torch.Generator()
        self.epoch, self.step, self.best = 0, 0, -1.0
        self.tally = Tally(self.device, self.world)
        if state is not None:
            self.restore(state)
        module: nn.Module = self.network
        if self.world > 1:
            module = DistributedDataParallel(module, [self.device.index] if self.device.type == "cuda" else None)
        forward = torch.compile(module) if recipe.compile else module
        recorded = self.device.type == "cuda" and self.world == 1 and recipe.regmixup == 0
        self.take_step = Step(forward, self.network.head, self.loss, self.optimizer, self.autocast, recorded)
        self.stopping = False

    def build_network(self, pretrained: bool) -> Classifier:
        try:
            return build_network(self.recipe.network, len(self.classes), self.mean, self.std, self.recipe.width, pretrained)
        except (OSError, RuntimeError) as exc:  # torch reports a broken download as RuntimeError
            if not pretrained:
                raise
            raise TrainingError(f"ImageNet weights for {self.recipe.network} cannot be had: {exc}; --no-pretrained starts from random ones") from None

    @property
    def steps(self) -> int:
        """Per epoch. The last pictures of the order that fill no batch wait for the next epoch's order."""
        return len(self.train_set) // (self.recipe.batch_size * self.world)

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"], group["fused"] = self.rate, self.optimizer.defaults["fused"]  # whatever device the run began on
        self.epoch, self.step, self.tally.sums, self.best = state["epoch"], state["step"], list(state["sums"]), state["best"]
        self.generator.set_state(state["generators"][self.rank])

    def save(self) -> None:
        generators: list[Any] = [None] * self.world
        if self.world > 1:
            distributed.all_gather_object(generators, self.generator.get_state())
        else:
            generators = [self.generator.get_state()]
        if self.rank:
            return
        state: dict[str, Any] = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "generators": generators}
        state |= {"epoch": self.epoch, "step": self.step, "sums": self.tally.sums, "best": self.best, "world": self.world}
        checkpoint.save(self.run / "last.pt", state | self.description())

    def description(self) -> dict[str, Any]:
        return {"recipe": self.recipe.as_dict(), "parts_digest": self.parts_digest, "classes": list(self.classes), "mean": self.mean, "std": self.std}

    def learning_rate(self) -> float:
        """From nothing up to lr in a straight line, then down to final_lr as a cosine, step by step."""
        recipe, done = self.recipe, self.epoch + self.step / self.steps
        if done < recipe.warmup_epochs:
            return recipe.lr * (done + 1 / self.steps) / recipe.warmup_epochs
        share = (done - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
        return recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + math.cos(math.pi * share)) / 2

    def autocast(self) -> torch.autocast:
        wanted = self.recipe.precision
        return torch.autocast(self.device.type, torch.bfloat16, enabled=computes_bf16(self.device) if wanted == "auto" else wanted == "bf16")

    def train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.rate.fill_(self.learning_rate())
        recipe = self.recipe
        images = augment(images, recipe.augment, recipe.input.size, self.generator, recipe.randaugment, recipe.randaugment_magnitude)
        return self.take_step(make_batch(images, labels, recipe.regmixup, self.generator))

    def train_epoch(self) -> None:
        batch, recipe = self.recipe.batch_size, self.recipe
        if self.step == 0:
            self.generator.manual_seed(recipe.seed * 1_000_003 + self.epoch * 1009 + self.rank)
        order = torch.randperm(len(self.train_set), generator=torch.Generator().manual_seed(recipe.seed + 7919 * self.epoch))
        mine = order[self.rank :: self.world][: self.steps * batch].split(batch)[self.step :]
        self.network.train()
        label = f"epoch {self.epoch + 1}/{recipe.epochs}"
        together = batch * self.world
        done, hidden = self.step * together, self.rank > 0 or None
        with tqdm(total=self.steps * together, initial=done, desc=label, unit=" images", disable=hidden, leave=False) as bar:
            for images, labels in self.train_set.batches(mine):
                self.tally.add(*self.train_step(images, labels))
                self.step += 1
                bar.update(together)
                # Alone, a process may leave at any step; with others only at one where all of them look.
                if not (self.tally.due or self.step == self.steps or (self.stopping and self.world == 1)):
                    continue
                stopping = self.tally.read(self.stopping)
                if not math.isfinite(self.tally.loss):
                    raise self.diverged(f"the loss is {self.tally.loss}")
                bar.set_postfix(loss=f"{self.tally.loss:.3f}", accuracy=f"{self.tally.accuracy:.3f}", refresh=False)
                if stopping:
                    self.check_weights()
                    self.save()
                    raise Stopped(f"stopped in epoch {self.epoch + 1} after step {self.step}; --resume goes on from there")
        if self.world > 1:
            # Without SyncBatchNorm (on CPUs) each process has running statistics of its own; the first one's count.
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)
        self.check_weights()

    def check_weights(self) -> None:
        """Bad weights show in the loss only one step later, which may be after they were saved."""
        if not all(torch.isfinite(tensor).all() for tensor in self.network.state_dict().values()):
            raise self.diverged("the weights are not finite")

    def diverged(self, what: str) -> TrainingError:
        last = self.run / "last.pt"
        kept = f". {last} holds the last good weights" if last.exists() else ""
        return TrainingError(f"{what} in epoch {self.epoch + 1}, step {self.step}; lower --lr (now {self.recipe.lr}){kept}")

    @torch.inference_mode()
    def validate(self) -> float:
        """Share of validation pictures classified rightly."""
        self.network.eval()
        right = 0
        for images, labels in self.validation_set.batches(torch.arange(len(self.validation_set)).split(128)):
            with self.autocast():
                _, logits = self.network(images)
            right += int((logits.argmax(dim=1) == labels).sum())
        return right / len(self.validation_set)

    def fit(self) -> float:
        """Trains to the last epoch; the best validation accuracy. The later of equals wins."""
        began, first = time.monotonic(), self.epoch
        with signals(self.on_signal), contextlib.closing(Scalars(self.run)) as scalars:
            while self.epoch < self.recipe.epochs:
                start, rate, steps = time.monotonic(), self.learning_rate(), self.steps - self.step
                self.train_epoch()
                speed = steps * self.recipe.batch_size * self.world / (time.monotonic() - start)
                loss, accuracy = self.tally.loss, self.tally.accuracy
                validation = self.validate()
                self.epoch, self.step, self.tally.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
                better, self.best = validation >= self.best, max(self.best, validation)
                if self.rank == 0:
                    values = {"loss": loss, "accuracy/train": accuracy, "accuracy/validation": validation, "lr": rate}
                    scalars.write(self.epoch, values | {"images_per_second": speed})
                    if better:
                        self.save_best(validation)
                    left = (time.monotonic() - began) / (self.epoch - first) * (self.recipe.epochs - self.epoch)
                    print(
                        f"epoch {self.epoch}/{self.recipe.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  validation {validation:.4f}  "
                        f"{speed:.0f} images/s  {left / 60:.0f} min left",
                        flush=True,
                    )
                self.save()
        return self.best

    def save_best(self, validation: float) -> None:
        state = {"network": self.network.state_dict(), "epoch": self.epoch, "code_version": code_version()}
        checkpoint.save(self.run / "best.pt", state | {"validation_accuracy": validation} | self.description())

    def on_signal(self, *_: object) -> None:
        self.stopping = True


def train(recipe: Recipe, run: Path, resume: bool = False, loss: Loss | None = None) -> float:
    """Trains a recipe into the folder `run`; the best validation accuracy. `loss`: for experiments, instead of the recipe's.

    Under torchrun every process calls this. SyncBatchNorm exists for CUDA only: on CPUs the first process's running
    statistics count.
    """
    check_place(run)
    state = saved_state(recipe, run, resume)
    if state is not None and state["epoch"] >= recipe.epochs:
        print(f"{run} is complete: all {recipe.epochs} epochs are done")
        return float(state["best"])
    with signals(stop_reading), process_group():
        return Trainer(recipe, run, state, loss).fit()
