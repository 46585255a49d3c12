"""What the model has read of one text, whose window moves on by halves."""

from collections.abc import Sequence

import torch

from nano_think.models.think import Cache, NanoThink, Routed

PIECE = 512


def context_start(length: int, window: int) -> int:
    """The first of `length` tokens that the next prediction depends on.

    Up to `window` tokens that is the first of all. Beyond, no position was trained: then the older half is dropped and
    the newer half read again, so the context is always from half a window to a whole one, and a cache is filled anew
    once per half window.
    """
    hop = window - window // 2
    return hop * max(0, -((window - length) // hop))


class Context:
    """The cache of one text that grows."""

    def __init__(self, model: NanoThink, window: int):
        self._model, self._window = model, window
        self._first, self._cache = 0, model.start(1, window)

    def predict(self, tokens: Sequence[int]) -> Routed:
        """What the model predicts after `tokens`, the last position alone: its answer to
        `tokens[context_start(len(tokens), window):]` at once. The tokens of the call before must be their beginning.
        """
        first = context_start(len(tokens), self._window)
        if first > self._first:
            self._first, self._cache = first, self._model.start(1, self._window)
        return read(self._model, tokens[first + self._cache.timeline.length :], self._cache).last()


def read(model: NanoThink, tokens: Sequence[int], cache: Cache) -> Routed:
    """Read tokens (one row) behind a cache, in pieces that keep the masks small; what the last piece gave."""
    assert tokens, "nothing to read"
    pieces = torch.tensor([tokens], device=model.head.table.device).split(PIECE, dim=1)
    for piece in pieces:
        routed = model.extend(piece, cache)
    return routed
