"""The repeated layers of whatever is trained, which can each be compiled, or computed twice to save memory."""

import functools
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The members of lists of layers that learn and are made of modules themselves, the outermost ones: blocks, mixers
    and the like, but no single norms or linear maps.
    """
    found: list[nn.Module] = []
    for module in model.children():
        if isinstance(module, nn.ModuleList):
            found += [one for one in module if any(one.children()) and learns(one)]
        else:
            found += layers_of(module)
    return found


def learns(module: nn.Module) -> bool:
    """Whether any of its parameters is being trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def checkpoint_layers(model: nn.Module) -> int:
    """From now on each layer keeps nothing but its inputs for the backward pass, and computes the rest once more (Chen
    et al. 2016, "Training deep nets with sublinear memory cost"); how many layers there are.

    The same random numbers are drawn again, so the gradients are the plain ones.
    """
    layers = layers_of(model)
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    return len(layers)


def compile_layers(model: nn.Module, trial: Callable[[], None]) -> str:
    """Compile each layer by itself (equal ones share their code, so it takes seconds and not minutes) and try a step.

    If that fails for any reason, a compiler that is missing among them, everything is as it was. Returns how it went,
    for people: "on (...)" or "off (...)".
    """
    layers, started = layers_of(model), time.monotonic()
    if not layers:
        return "off (there are no layers that repeat)"
    for layer in layers:
        layer.forward = torch.compile(layer.forward)
    try:
        trial()
    except Exception as error:
        for layer in layers:
            del layer.forward
        torch._dynamo.reset()
        said = str(error).strip().partition("\n")[0]
        return f"off (it failed: {type(error).__name__}: {said[:120]})"
    return f"on ({len(layers)} layers in {time.monotonic() - started:.0f} s)"
