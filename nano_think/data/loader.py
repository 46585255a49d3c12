"""Windows of tokens in an order that is a pure function of (seed, step): the whole state of a loader is its step."""

# B windows in a batch, T tokens predicted per window
import functools

import numpy as np

from nano_think.core.errors import InputError
from nano_think.core.rng import branch


class Windows:
    """Batches of T + 1 consecutive tokens: inputs `[:, :-1]`, targets `[:, 1:]`.

    Each epoch cuts the tokens anew, from a random offset below T, and shuffles the windows; window i holds the tokens
    [offset + i * T, offset + i * T + T], so that neighbours share one token and each is predicted once. Steps run on
    over epochs without a gap: every window of an epoch is seen exactly once, also when the batch does not divide them.
    """

    def __init__(self, tokens: np.ndarray, window: int, batch: int, seed: int):
        """`window` is T and `batch` is B over all ranks. Raises `InputError` for fewer than T + 1 tokens."""
        assert window > 0 and batch > 0
        if len(tokens) <= window:
            raise InputError(
                f"{len(tokens)} tokens are fewer than one window of {window} + 1; give more text or a smaller window"
            )
        self.tokens, self.window, self.seed = tokens, window, seed
        self.batch_size = batch
        # The count must not depend on the offset: what is left over is always less than two windows.
        self.windows_per_epoch = max(1, (len(tokens) - window) // window)
        self.steps_per_epoch = -(-self.windows_per_epoch // batch)
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> tuple[int, np.ndarray]:
        """(offset, permutation of the windows) of an epoch."""
        random = np.random.Generator(np.random.PCG64(branch(self.seed, "windows", epoch)))
        spare = len(self.tokens) - 1 - self.windows_per_epoch * self.window
        return int(random.integers(min(self.window, spare + 1))), random.permutation(self.windows_per_epoch)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """(B / world, T + 1) int64: the rows of `rank` among the B of `step`; `world` must divide B."""
        assert self.batch_size % world == 0 and 0 <= rank < world, (self.batch_size, rank, world)
        places = range(step * self.batch_size + rank, (step + 1) * self.batch_size, world)
        return np.stack([self._window(*divmod(place, self.windows_per_epoch)) for place in places])

    def _window(self, epoch: int, place: int) -> np.ndarray:
        offset, order = self._order(epoch)
        start = offset + int(order[place]) * self.window
        return self.tokens[start : start + self.window + 1].astype(np.int64)
