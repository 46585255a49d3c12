"""The one way to make a bias-free matrix here."""

from torch import nn


def linear(n_in: int, n_out: int, zero: bool = False) -> nn.Linear:
    """A bias-free linear map, entries normal with variance 1 / n_in; or all zeros, where a residual branch ends.

    Zero ends make every block the identity at the first step, so depth costs nothing before it has learned something.
    """
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.zeros_(layer.weight) if zero else nn.init.normal_(layer.weight, std=n_in**-0.5)
    return layer
