"""What a training will need, found out on a part of one window before it starts: memory, and floating-point operations.

B batch, T tokens
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nano_think.core.errors import UsageError
from nano_think.nn.attention import counting_attention
from nano_think.training.layers import layers_of
from nano_think.training.objectives import Objective
from nano_think.training.optim import OptimConfig, build_optimizers

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_TOKENS, FEW_TOKENS = 2048, 256
SWITCH = "NANO_THINK_NO_MEMORY_CHECK"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What one process of a training needs."""

    flops_per_token: float
    """Matrix products of a step, forward and backward, per token of a window that is one document: only the pairs that
    see each other in attention, no scan and nothing elementwise, nothing that a pass computes again."""
    state_bytes: int
    """Gradients and the optimiser's moments."""
    activation_bytes: int
    """What the backward pass needs of the forward pass, for the windows that are computed at once."""

    @property
    def bytes(self) -> int:
        return self.state_bytes + self.activation_bytes


def estimate(
    objective: Objective, window_T1: Tensor, windows: int, optim: OptimConfig, checkpointed: bool,
    accelerator: "Accelerator",
) -> Estimate:  # fmt: skip
    """Run the objective, which is on its device, forward and backward over the first 2,048 tokens of a window.

    windows: how many a process computes at once. Numbers grow in proportion to the tokens, those of attention with
    their square. Draws random numbers, and leaves nothing in the objective.
    """
    tokens_BT1, longer = _beginning(objective, window_T1)
    kept = _Kept(objective)
    with kept.watching():
        try_step(objective, tokens_BT1, accelerator)
    return Estimate(
        flops_per_token=flops_per_token(objective, window_T1, accelerator),
        state_bytes=_state_bytes(objective, optim),
        activation_bytes=round(kept.total(checkpointed) * windows * longer),
    )


def memory_needed(objective: Objective, window: int, windows: float, optim: OptimConfig, checkpointed: bool) -> int:
    """`Estimate.bytes` of a training, found out on this process's CPU over 256 tokens, before there is a device to
    train on. Random streams are left as they were.
    """
    some = min(window, FEW_TOKENS)
    tokens_T1 = torch.ones(some + 1, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        found = estimate(objective, tokens_T1, 1, optim, checkpointed, _Alone())  # type: ignore[arg-type]
    return found.state_bytes + round(found.activation_bytes * windows * window / some)


class _Alone:
    """What an estimate needs of an Accelerator, of which a process has only one."""

    device = torch.device("cpu")

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def flops_per_token(objective: Objective, window_T1: Tensor, accelerator: "Accelerator") -> float:
    """The `flops_per_token` of an `Estimate`, by one step over the beginning of the window."""
    tokens_BT1, longer = _beginning(objective, window_T1)
    counter = FlopCounterMode(display=False)
    with counter, counting_attention() as attention:
        try_step(objective, tokens_BT1, accelerator)
    counts = counter.get_flop_counts()["Global"]
    products = sum(flops for name, flops in counts.items() if "attention" not in str(name))
    return (products + longer * sum(attention)) / (tokens_BT1.shape[1] - 1)


def _beginning(objective: Objective, window_T1: Tensor) -> tuple[Tensor, float]:
    """The first tokens of a window as one document, (1, up to 2,049), and how many times longer the window is."""
    tokens_BT1 = window_T1[None, : MOST_TOKENS + 1]
    start = objective.start_token
    one_document_BT1 = tokens_BT1.masked_fill(tokens_BT1 == start, 0 if start else 1)
    return one_document_BT1, (len(window_T1) - 1) / (tokens_BT1.shape[1] - 1)


def try_step(objective: Objective, tokens_BT1: Tensor, accelerator: "Accelerator") -> None:
    """Forward and backward over some windows, of which nothing stays: no gradient, and nothing in a buffer."""
    before = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    objective.train()
    with accelerator.autocast():
        loss = torch.stack(list(objective(tokens_BT1.to(accelerator.device), 0.0).values())).sum()
    accelerator.backward(loss)
    objective.zero_grad()
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


def _state_bytes(objective: nn.Module, optim: OptimConfig) -> int:
    """One gradient and one moment for each number that Muon trains, one and two for each of AdamW's."""
    total = 0
    for optimizer in build_optimizers(objective, optim):
        copies = 2 if isinstance(optimizer, torch.optim.Muon) else 3
        total += sum(copies * p.nbytes for group in optimizer.param_groups for p in group["params"])
    return total


class _Kept:
    """Bytes that autograd keeps of a forward pass, inside each layer and outside; weights are not counted."""

    OUTSIDE = -1

    def __init__(self, model: nn.Module):
        self.layers = layers_of(model)
        self.owner, self.inputs = self.OUTSIDE, 0
        self.bytes: Counter[int] = Counter()
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def total(self, checkpointed: bool) -> int:
        """With checkpointed layers: their inputs, what is outside, and the layer that is being computed again."""
        if not checkpointed or not self.layers:
            return self.bytes.total()
        return self.bytes[self.OUTSIDE] + self.inputs + max(self.bytes[index] for index in range(len(self.layers)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for index, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(self._enter(index)))
            handles.append(layer.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, index: int) -> Callable[..., None]:
        def enter(module: nn.Module, arguments: tuple) -> None:
            self.owner = index
            self.inputs += sum(one.nbytes for one in arguments if isinstance(one, Tensor))

        return enter

    def _leave(self, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        self.owner = self.OUTSIDE

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes[self.owner] += storage.nbytes()
        return tensor


def refuse_too_large(needed: Estimate, processes: int, free: int | None) -> None:
    """`UsageError` where all processes that share a memory need more than is free in it; $NANO_THINK_NO_MEMORY_CHECK=1
    lets them try.
    """
    if free is not None and needed.bytes * processes > free and os.environ.get(SWITCH) != "1":
        raise UsageError(
            f"this training needs about {format_bytes(needed.bytes * processes)} of memory "
            f"({format_bytes(needed.activation_bytes * processes)} of it for activations), "
            f"and {format_bytes(free)} are free; raise accumulate, set checkpoint_layers, lower batch, "
            f"or go on all the same with {SWITCH}=1 in the environment"
        )


def format_bytes(count: float) -> str:
    """Bytes as 512 MB or 1.5 GB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
