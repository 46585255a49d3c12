"""Taking turns: what every comparison here is timed with."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Step = Callable[[], object]


def take_turns(ways: Mapping[str, Step], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each way in each round. The ways take turns, so that whatever else the machine does meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + rounds):
        for name, step in ways.items():
            started = time.perf_counter()
            step()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each way."""
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def make_product(dtype: torch.dtype, rows: int = 2048, inner: int = 384, columns: int = 1536) -> tuple[Step, float]:
    """A matrix product to measure the machine by, and its floating-point operations."""
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)

    def product() -> None:
        for _ in range(10):
            torch.nn.functional.linear(a, b)

    return product, 10 * 2.0 * rows * inner * columns
