"""Muon for matrices, AdamW for the rest, and the learning rate as a pure function of the step."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from nano_think.core.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Config):
    """Optimiser and schedule. Rates are peaks; both optimisers share the schedule."""

    matrix_rate: float = 0.01
    """Muon's learning rate, for the matrices of linear layers (largest stretch of a vector by one step's change; times
    the root of rows / columns where a matrix is taller than wide)."""
    vector_rate: float = 0.005
    """AdamW's learning rate, for gains, biases and everything that is no matrix (change per step and entry)."""
    table_rate: float = 0.03
    """AdamW's learning rate for a token table (change per step and entry)."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices (per step, times the learning rate)."""
    warmup: float = 0.05
    """Share of the steps over which the rate rises from 0 (0 to 1)."""
    decay: float = 0.6
    """Share of the steps, at the end, over which it falls to 0 (0 to 1)."""
    clip: float = 1.0
    """Largest norm of the whole gradient; longer ones are shortened to it (0 turns it off)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"{field.name}: wanted 0 or more, got {getattr(self, field.name)}")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay: wanted at most 1 in all, got {self.warmup + self.decay}")


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) over linear layers' weights and fused AdamW over everything else that learns.

    A parameter called `table` is a token table and has its own rate. Each group remembers its peak rate as "peak".
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            table = name.rpartition(".")[2] == "table"
            (matrices if id(parameter) in linear else tables if table else vectors).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay))
    groups = [{"params": vectors, "lr": config.vector_rate}, {"params": tables, "lr": config.table_rate}]
    groups = [group for group in groups if group["params"]]
    if groups:
        optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every group to `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def rate_at(step: int, steps: int, config: OptimConfig) -> float:
    """The share of the peak rate at `step` of `steps`: up, level, down (warm-up, stable, decay), never quite 0."""
    up = (step + 1) / max(1, round(config.warmup * steps))
    down = (steps - step) / max(1, round(config.decay * steps))
    return min(1.0, up, down)
