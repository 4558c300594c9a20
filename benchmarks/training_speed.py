"""Training speed against the loop that tutorials show: torchvision's transforms picture by picture, a DataLoader, the same network.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --width 64 --rounds 20        # a GPU

Both train the same network on the same pictures with the same batch size, optimizer and number of threads. They take turns of
some steps in one process, and the ratio is that of the median turns. The plain loop computes in float32, as such loops do; so does
ours with --precision fp32.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.hardware import hardware
from training.config import Recipe
from training.devices import own_device
from training.networks import build_network
from training.train import Trainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="data/cifar10")
parser.add_argument("--width", type=int, default=16)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader (default 2, as in torchvision's examples)")
parser.add_argument("--steps", type=int, default=10, help="in one turn")
parser.add_argument("--rounds", type=int, default=5, help="turns of each, after one that does not count")
parser.add_argument("--json", type=Path)


class Plain(Dataset[tuple[Tensor, int]]):
    """Pictures in memory, transformed one at a time."""

    def __init__(self, images: Tensor, labels: Tensor, mean: list[float], std: list[float]) -> None:
        self.images, self.labels = images.cpu().numpy(), labels.tolist()
        crop, flip, normalise = v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.Normalize(mean, std)
        self.transform = v2.Compose([v2.ToPILImage(), crop, flip, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


def plain_steps(trainer: Trainer, workers: int) -> Iterator[float]:
    """Endless steps of the plain loop; each gives its loss."""
    recipe, device = trainer.recipe, own_device()
    pictures = trainer.train_set
    assert pictures.tensor is not None
    loader = DataLoader(
        Plain(pictures.tensor, pictures.labels, trainer.mean, trainer.std),
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    network = build_network(recipe.network, len(trainer.classes), trainer.mean, trainer.std, recipe.width).to(device)
    model = nn.Sequential(network.backbone, network.head).train()
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True)
    criterion = nn.CrossEntropyLoss()
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            yield loss.item()


def our_steps(trainer: Trainer) -> Iterator[float]:
    """Endless steps as training takes them, its reading of the loss included."""
    trainer.network.train()
    while True:
        order = torch.randperm(len(trainer.train_set)).split(trainer.recipe.batch_size)[:-1]
        for images, labels in trainer.train_set.batches(order):
            trainer.tally.add(*trainer.train_step(images, labels))
            if trainer.tally.due:
                trainer.tally.read(stopping=False)
            yield 0.0


def turn(steps: Iterator[float], count: int) -> float:
    """Seconds that so many steps take."""
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    arguments = parser.parse_args()
    recipe = Recipe(
        arguments.data, loss="ce", width=arguments.width, batch_size=arguments.batch_size, precision=arguments.precision, compile=arguments.compile
    )
    with TemporaryDirectory() as folder:
        trainer = Trainer(recipe, Path(folder))
    loops = {"plain": plain_steps(trainer, arguments.workers), "ours": our_steps(trainer)}
    took: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(arguments.rounds + 1):
        for name, steps in loops.items():
            seconds = turn(steps, arguments.steps)
            if round_:
                took[name].append(seconds)
    speeds = {name: arguments.steps * recipe.batch_size / statistics.median(values) for name, values in took.items()}
    ratio, epoch = speeds["ours"] / speeds["plain"], len(trainer.train_set) / speeds["ours"]
    result = {
        "hardware": hardware(),
        "width": recipe.width,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "compile": recipe.compile,
        "workers": arguments.workers,
        **{f"{name}_images_per_second": round(speed) for name, speed in speeds.items()},
        "ratio": round(ratio, 3),
    }
    print(f"plain {speeds['plain']:.0f} images/s, ours {speeds['ours']:.0f} images/s, ratio {ratio:.2f}; 100 epochs: {epoch / 0.6:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
