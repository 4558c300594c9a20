"""Mean loss and accuracy of an epoch so far, over all processes, without stopping a GPU at every step."""

import torch
from torch import Tensor, distributed

# To read a number, a process waits until the GPU has done all it was given. A CPU has nothing to wait for.
READ_EVERY = {"cuda": 20, "cpu": 1}


class Tally:
    """`sums` holds what was read: loss, accuracy and steps. The steps since then lie on the device."""

    def __init__(self, device: torch.device, world: int = 1) -> None:
        self.world, self.every = world, READ_EVERY[device.type]
        self.sums = [0.0, 0.0, 0.0]
        self.pending = torch.zeros(2, dtype=torch.float64, device=device)
        self.steps = 0

    def add(self, loss: Tensor, accuracy: Tensor) -> None:
        """One step of this process; both are scalars."""
        self.pending += torch.stack([loss, accuracy])
        self.steps += 1

    @property
    def due(self) -> bool:
        return self.steps >= self.every

    def read(self, stopping: bool) -> bool:
        """Takes in the pending steps of all processes; whether any was told to stop: all must leave an epoch at the same step."""
        values = torch.cat([self.pending, self.pending.new_tensor([float(stopping)])])
        if self.world > 1:
            distributed.all_reduce(values)
        loss, accuracy, told = values.tolist()
        self.sums = [self.sums[0] + loss / self.world, self.sums[1] + accuracy / self.world, self.sums[2] + self.steps]
        self.pending.zero_()
        self.steps = 0
        return bool(told > 0)

    @property
    def loss(self) -> float:
        return self.sums[0] / self.sums[2]

    @property
    def accuracy(self) -> float:
        return self.sums[1] / self.sums[2]
