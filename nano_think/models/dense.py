"""The dense control: one transformer that costs what a whole mixture costs.

Its shape follows from the mixture's parameters, and its tokens from the mixture's training FLOPs.
"""

import math
from dataclasses import replace

from nano_think.core.device import without_numbers
from nano_think.core.errors import UsageError
from nano_think.experts import build_expert, count_parameters
from nano_think.experts.transformer import TransformerConfig

KIND = "transformer"
TOLERANCE = 0.02


def match_parameters(wanted: int, width: int, base: TransformerConfig) -> TransformerConfig:
    """The transformer of `width` channels that has `wanted` parameters, to within 2%.

    It grows from `base` in depth and in inner width alike: of all depths the one is taken at which both have grown by
    the most equal factors. The inner width is the roundest that is within 1%. Raises `UsageError` where none fits.
    """
    outside, block, slope = _sizes(width, base)
    shapes = []
    for n_layers in range(1, max(1, wanted // block) + 1):
        inner = _roundest((wanted - outside - n_layers * block) / (n_layers * slope), wanted / (n_layers * slope))
        error = abs(outside + n_layers * (block + slope * inner) - wanted) / wanted
        if inner >= 1 and error <= TOLERANCE:
            uneven = abs(math.log(n_layers / base.n_layers) - math.log(inner / base.inner))
            shapes.append((uneven, n_layers, inner))
    if not shapes:
        raise UsageError(
            f"no transformer of width {width} has within {TOLERANCE:.0%} of the mixture's {wanted:,} parameters; "
            "choose --controls none or larger experts"
        )
    _, n_layers, inner = min(shapes)
    return replace(base, n_layers=n_layers, inner=inner)


def _sizes(width: int, base: TransformerConfig) -> tuple[int, int, int]:
    """Parameters outside the layers, of a layer without its inner channels, and of one inner channel."""

    def count(n_layers: int, inner: int) -> int:
        with without_numbers():
            return count_parameters(build_expert(KIND, replace(base, n_layers=n_layers, inner=inner), width))

    one, slope = count(1, 1), count(1, 2) - count(1, 1)
    layer = count(2, 1) - one
    return one - layer, layer - slope, slope


def _roundest(inner: float, whole: float) -> int:
    """`inner` rounded to as large a power of two as changes at most 1% of `whole`, which is in inner channels too."""
    for step in (64, 32, 16, 8, 4, 2):
        rounded = round(inner / step) * step
        if rounded and abs(rounded - inner) <= 0.01 * whole:
            return rounded
    return round(inner)


def match_tokens(flops: float, flops_per_token: float, tokens_per_step: int) -> int:
    """The tokens that cost `flops` to train on, in whole steps; at least one step."""
    return max(1, round(flops / flops_per_token / tokens_per_step)) * tokens_per_step
