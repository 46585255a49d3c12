"""Small pictures with labels, of a package that ships them.

N pictures, H x W pixels
"""

from typing import NamedTuple

import numpy as np

from nano_think.core.errors import UsageError


class Pictures(NamedTuple):
    """Brightness, (N, H, W) from 0 to 1, and what is on each, (N,)."""

    pixels_NHW: np.ndarray
    label_N: np.ndarray

    def take(self, chosen: np.ndarray) -> "Pictures":
        return Pictures(self.pixels_NHW[chosen], self.label_N[chosen])


def digits() -> Pictures:
    """1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (Alpaydin and Kaynak 1998, the test part; UCI,
    CC BY 4.0).
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; install it with: pip install 'nano_think[images]'") from None
    found = load_digits()
    return Pictures((found.images / 16).astype(np.float32), found.target.astype(np.int64))


def split(pictures: Pictures, held_out: float, seed: int) -> tuple[Pictures, Pictures]:
    """Those to learn from and a share that is held out, dealt by a seed."""
    order = np.random.default_rng(seed).permutation(len(pictures.label_N))
    first = round(held_out * len(order))
    return pictures.take(order[first:]), pictures.take(order[:first])
