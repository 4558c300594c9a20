"""A planted world: four classes of features, a head that tells them apart, and OOD features that belong to none."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.postprocessors import REGISTRY, Outputs, Postprocessor

CLASSES, WIDTH = 4, 16


class World(NamedTuple):
    train: Outputs
    validation: Outputs
    test: Outputs
    ood: Outputs
    head: nn.Linear


def make_world(seed: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.eye(WIDTH)[:CLASSES] * 3 + 0.2
    head = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        head.weight.copy_(directions + 0.1 * torch.randn(CLASSES, WIDTH, generator=generator))
        head.bias.copy_(0.1 * torch.randn(CLASSES, generator=generator))

    def outputs(features: Tensor, labels: Tensor) -> Outputs:
        with torch.no_grad():
            return Outputs(features, head(features), labels)

    def inside(count: int) -> Outputs:
        labels = torch.arange(count) % CLASSES
        return outputs((directions[labels] + 0.4 * torch.randn(count, WIDTH, generator=generator)).relu(), labels)

    # OOD: as peaked as a class, but on features that no class has.
    elsewhere = torch.eye(WIDTH)[CLASSES + torch.randint(0, WIDTH - CLASSES, (200,), generator=generator)] * 3 + 0.2
    strange = (elsewhere + 0.4 * torch.randn(200, WIDTH, generator=generator)).relu()
    return World(inside(800), inside(300), inside(300), outputs(strange, torch.full((200,), -1)), head)


def fitted(key: str, world: World, **hyperparameters: float) -> Postprocessor:
    postprocessor = REGISTRY[key](**hyperparameters)
    postprocessor.fit(world.train, world.validation, world.head)
    return postprocessor
