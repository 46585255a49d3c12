"""Rotary position embedding (Su et al. 2021, RoFormer, eq. 34), in real numbers.

B batch, N heads, T tokens, H head width.
"""

import torch
from torch import Tensor, nn


class Rope(nn.Module):
    """Positions (T) -> the pair (cos, sin), each (T, H / 2), that `rotate` turns queries and keys by.

    base: wavelength of the slowest pair, in tokens / 2 pi. Scores depend on differences of positions alone.
    """

    frequency: Tensor

    def __init__(self, width: int, base: float = 10_000.0):
        super().__init__()
        assert width % 2 == 0, f"RoPE turns pairs of channels; got an odd head width {width}"
        self.register_buffer("frequency", base ** (-torch.arange(0, width, 2).float() / width), persistent=False)

    def forward(self, position_T: Tensor) -> tuple[Tensor, Tensor]:
        angle = position_T.float()[:, None] * self.frequency
        return angle.cos(), angle.sin()


def between(rope: tuple[Tensor, Tensor], first: int, end: int) -> tuple[Tensor, Tensor]:
    """The rotations of the positions from `first` up to `end`."""
    return rope[0][first:end], rope[1][first:end]


def rotate(x_BNTH: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pair (first half, second half) of every channel by its position's angle; shape unchanged."""
    cos, sin = (part.to(x_BNTH.dtype) for part in rope)
    first, second = x_BNTH.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
