"""What Muon saves in steps: one small transformer with AdamW and with Muon, on bytes of Python's standard library."""

import sysconfig
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nano_think.training.optim import OptimConfig, build_optimizers, rate_at, set_rate
from train_ways import ours
from train_ways.shape import Shape

STEPS, WINDOWS = 200, 8
ADAMW_RATES = (1e-3, 3e-3, 1e-2)


def steps_to_same_loss(shape: Shape) -> dict[str, float]:
    """How many steps each needs to the loss that the best AdamW ends with; the mean of 20 steps counts as the loss."""
    small = replace(shape, width=min(shape.width, 128), layers=min(shape.layers, 4), heads=2, inner=384, vocabulary=256)
    small = replace(small, batch=WINDOWS, heads=2 if small.width % 4 == 0 else 1)
    tokens = read_bytes(WINDOWS * STEPS * (small.window + 1)).view(STEPS, WINDOWS, -1)
    curves = {rate: smooth(train(small, tokens, rate)) for rate in ADAMW_RATES}
    best = min(curves, key=lambda rate: curves[rate][-1])
    muon = smooth(train(small, tokens, None))
    reached = next((step for step, loss in enumerate(muon) if loss <= curves[best][-1]), len(muon))
    return {
        "muon.adamw_rate": best,
        "muon.adamw_loss": curves[best][-1],
        "muon.muon_loss": muon[-1],
        "ratio.muon_steps": len(curves[best]) / (reached + 1),
    }


def read_bytes(size: int) -> Tensor:
    """The first bytes of the standard library's modules, in the order of their names."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= size:
            break
    return torch.frombuffer(text[:size], dtype=torch.uint8).long()


def train(shape: Shape, tokens: Tensor, adamw_rate: float | None) -> list[float]:
    """The loss of each step, with fused AdamW at a rate or, without one, with our optimisers; one schedule for both."""
    torch.manual_seed(0)
    model: nn.Module = ours.Shipped(ours.build_transformer(shape), shape)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    config = OptimConfig()
    optimizers = build_optimizers(model, config)
    if adamw_rate:
        group = {"params": parameters, "lr": adamw_rate, "peak": adamw_rate}
        optimizers = [torch.optim.AdamW([group], betas=(0.9, 0.95), weight_decay=0.01, fused=True)]
    order, losses = torch.randperm(len(tokens)), []
    for step, windows_BT1 in enumerate(tokens[order]):
        set_rate(optimizers, rate_at(step, len(tokens), config))
        loss = model(windows_BT1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach().item())
    return losses


def smooth(losses: list[float], width: int = 20) -> list[float]:
    """Running means of `width` losses."""
    return [sum(losses[i : i + width]) / width for i in range(len(losses) - width + 1)]
