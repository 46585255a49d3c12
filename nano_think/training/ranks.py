"""The processes of one training, each with a part of every batch: they add up what they found and decide together."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class Ranks:
    """This process among the `world` of a training. With one process every method is free."""

    def __init__(self, accelerator: "Accelerator"):
        self.accelerator = accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        return self.accelerator.reduce(value, "sum") if self.world > 1 else value

    def largest(self, value: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return value
        return int(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; one that no process has stays None.

        All of them travel as one row of numbers, in the order of the parameters: buckets that depend on when a gradient
        is ready would change the last bits after a resume.
        """
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        if self.world == 1 or not learning:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learning]
        known = learning[0].new_tensor([float(p.grad is not None) for p in learning])
        row = self.sum(torch.cat([known, *(grad.flatten().to(known.dtype) for grad in grads)]))
        known, *sums = row.split([len(learning), *(p.numel() for p in learning)])
        for parameter, has_one, total in zip(learning, known.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if has_one else None
