"""What the model has read of several texts that grow at once, each with a window that moves on by halves.

R texts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nano_think.models.chat import Model
from nano_think.models.think import Cache, Routed
from nano_think.nn.cache import Rows

PIECE = 512


def context_start(length: int, window: int) -> int:
    """The first of `length` tokens that the next prediction depends on.

    Up to `window` tokens that is the first of all. Beyond, no position was trained: then the older half is dropped and
    the newer half read again, so the context is always from half a window to a whole one, and a cache is filled anew
    once per half window.
    """
    hop = window - window // 2
    return hop * max(0, -((window - length) // hop))


@dataclass
class _Kept:
    """Of a slot: the first token that its context holds, how many it holds, and where their last document begins."""

    first: int
    length: int
    begin: int


class Slots:
    """A common cache of `count` slots of `window` tokens, allocated once (at the first text)."""

    def __init__(self, model: Model, window: int, count: int):
        self._model, self._window = model, window
        self._cache, self._kept = model.start(count, window), dict[int, _Kept]()

    def predict(self, texts: Mapping[int, Sequence[int]]) -> Routed:
        """What the model predicts after the text of each slot, (R, 1, ...), in their order: its answer to
        `tokens[context_start(len(tokens), window):]` at once.

        A text that is one token longer than at the last call is read on by one step together with all others like it;
        any other is read from its beginning.
        """
        stepping = {slot: tokens[-1] for slot, tokens in texts.items() if self._goes_on(slot, tokens)}
        found = {slot: self._read(slot, tokens) for slot, tokens in texts.items() if slot not in stepping}
        if stepping:
            routed = self._step(stepping)
            if not found:
                return routed
            for place, slot in enumerate(stepping):
                found[slot] = Routed(*(part[place : place + 1] for part in routed))
        return Routed(*(torch.cat(parts) for parts in zip(*(found[slot] for slot in texts), strict=True)))

    def leave(self, slot: int) -> None:
        """Forget the text of a slot."""
        self._kept.pop(slot, None)

    def _goes_on(self, slot: int, tokens: Sequence[int]) -> bool:
        kept, first = self._kept.get(slot), context_start(len(tokens), self._window)
        return kept is not None and kept.first == first and first + kept.length == len(tokens) - 1

    def _read(self, slot: int, tokens: Sequence[int]) -> Routed:
        first = context_start(len(tokens), self._window)
        one, context = self._model.start(1, self._window), list(tokens[first:])
        routed = read(self._model, context, one)
        self._cache.join(slot, one)
        start = self._model.start_token
        begin = len(context) - 1 - context[::-1].index(start) if start in context else 0
        self._kept[slot] = _Kept(first, len(context), begin)
        return routed.last()

    def _step(self, token_of: Mapping[int, int]) -> Routed:
        at = []
        for slot, token in token_of.items():
            kept = self._kept[slot]
            kept.begin = kept.length if token == self._model.start_token else kept.begin
            at.append((slot, kept.length, kept.begin))
            kept.length += 1
        device = self._model.head.table.device
        rows = Rows(torch.tensor(at, device=device).T.contiguous())
        return self._model.advance(torch.tensor(list(token_of.values()), device=device), rows, self._cache)


def read(model: Model, tokens: Sequence[int], cache: Cache) -> Routed:
    """Read tokens (one row) behind a cache, in pieces that keep the masks small; what the last piece gave."""
    assert tokens, "nothing to read"
    pieces = torch.tensor([tokens], device=model.head.table.device).split(PIECE, dim=1)
    for piece in pieces:
        routed = model.extend(piece, cache)
    return routed
