"""One step of training: from a batch to new weights. A GPU records it once and repeats the recording."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.losses import Loss
from training.regmixup import Batch

# Steps before the recording: cuDNN looks for its fastest algorithms, and the optimizer makes its buffers.
WARM_UP = 3


class Step:
    """Forward, loss, backward and update of one batch; gives loss and accuracy, both scalars.

    A GPU finishes a small network's kernels faster than Python can ask for them. A CUDA graph (Accelerating PyTorch with
    CUDA Graphs, 2021) asks for all of them at once, so with `recorded` the first steps run as they are, the next one is
    recorded, and from then on only its inputs change: all batches must then be of one shape, of one class a picture.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, Tensor]],
        head: nn.Linear,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        autocast: Callable[[], torch.autocast],
        recorded: bool,
    ) -> None:
        self.forward, self.head, self.loss, self.optimizer, self.autocast = forward, head, loss, optimizer, autocast
        # A stream of its own: nothing of a recording, nor of the steps before it, may depend on the default stream.
        self.stream, self.taken = torch.cuda.Stream() if recorded else None, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        if recorded:
            torch.backends.cudnn.benchmark = True

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.stream is None:
            return self.compute(batch)
        if self.taken < WARM_UP:
            return self.warm_up(batch, self.stream)
        if self.graph is None:
            self.record(batch)
        assert self.graph is not None
        self.inputs.images.copy_(batch.images)
        self.inputs.first.copy_(batch.first)
        self.graph.replay()
        return self.outputs

    def compute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            _, logits = self.forward(batch.images)
        loss = batch.loss(self.loss, logits, self.head)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), batch.accuracy(logits)

    def warm_up(self, batch: Batch, stream: torch.cuda.Stream) -> tuple[Tensor, Tensor]:
        self.taken += 1
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.compute(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def record(self, batch: Batch) -> None:
        """Records a step without taking it. Other threads are left alone: one of them fetches the next batch meanwhile."""
        images, labels = batch.images.clone(), batch.first.clone()
        self.inputs = Batch(images, labels, labels, 1.0, len(labels))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.outputs = self.compute(self.inputs)
