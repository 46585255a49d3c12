"""The perturbation test: change what lies ahead, and nothing before it may move, not by one bit."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def randomise_zeros(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Replace parameters that are all zero by noise: a path that ends in zeros hides whatever leaks through it."""
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                width = parameter.shape[-1] if parameter.ndim else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale * width**-0.5)
    return module


def assert_causal(
    function: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    tokens_BT: Tensor,
    vocabulary: int,
    places: Iterable[int],
    seen_at: Callable[[int], int] = lambda place: place,
) -> None:
    """Change tokens from a place on: each output, (B, T, ...), stays bit for bit before `seen_at(place)`, moves after.

    `places` should hold the edges of whatever works in pieces: chunks, blocks, documents. `seen_at` is the first
    position that may depend on the token at the place, the place itself unless told otherwise.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        before = _outputs(function(tokens_BT))
        for place in places:
            other_BT = tokens_BT.clone()
            shift = torch.randint(1, vocabulary, other_BT[:, place:].shape, generator=generator)
            other_BT[:, place:] = (other_BT[:, place:] + shift) % vocabulary
            first = seen_at(place)
            for index, (old, new) in enumerate(zip(before, _outputs(function(other_BT)), strict=True)):
                assert old.isfinite().all(), f"output {index} is not finite"
                moved_T = (old != new).flatten(2).any(2).any(0) if old.ndim > 2 else (old != new).any(0)
                early = moved_T[:first].nonzero().flatten().tolist()
                assert not early, f"output {index} at {early} sees the token at {place}"
                assert moved_T[first:].any(), f"output {index} does not depend on the tokens from {place} on"


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
