"""How sure a difference is: a bootstrap over documents.

S resamples, N documents, C columns
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95
# Numbers of a block of counts.
BLOCK = 2**22


def resampled_totals(values_NC: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The totals of each column over N documents drawn with replacement, (S, C).

    A resample draws documents, so all columns have the same ones: their differences are paired.
    """
    n, dice, parts = len(values_NC), np.random.default_rng(seed), []
    step = max(1, BLOCK // max(1, n))
    for first in range(0, resamples, step):
        counts_SN = dice.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - first))
        parts.append(counts_SN @ values_NC)
    return np.concatenate(parts)


def interval(values_S: np.ndarray | Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of a statistic over its resamples (Efron 1979)."""
    low, high = np.quantile(values_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
