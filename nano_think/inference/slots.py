"""What the model has read of several texts that grow at once, each with a window that moves on by halves.

R texts, T tokens, D model width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.inference.compiling import compile_step
from nano_think.models.chat import Carried, Chat, Model, remembers, start_steered
from nano_think.models.think import Cache, Routed
from nano_think.nn.cache import Rows
from nano_think.parts import Dials

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
    """Of a slot: the first token that its context holds, how many it holds, where their last document begins, and what
    the model keeps of the text before.
    """

    first: int
    length: int
    begin: int
    carried: Carried


class Predicted(NamedTuple):
    """For each of R texts: the last position, (R, 1, ...), and the hidden states of the tokens that were read for the
    first time, (T, D).
    """

    last: Routed
    new: list[Tensor]


class Slots:
    """A common cache of `count` slots of `window` tokens, allocated once (at the first text). With `compiled`, steps go
    through `torch.compile`.
    """

    def __init__(self, model: Model, window: int, count: int, compiled: bool = False):
        self._model, self._window = model, window
        self._advance = compile_step(model, window, count) if compiled else model.advance
        self.cache, self._kept = model.start(count, window), dict[int, _Kept]()

    def predict(
        self, texts: Mapping[int, Sequence[int]], steered: Mapping[int, Dials] | None = None,
        begun: Mapping[int, Carried] | None = None,
    ) -> Predicted:  # fmt: skip
        """What the model predicts after the text of each slot: its answer to
        `tokens[context_start(len(tokens), window):]` at once, steered as is said when the text is first read. A model
        that remembers is also told of the document's tokens before these, and of what it kept of what was `begun`
        before the text.

        A text that is one token longer than at the last call is read on by one step together with all others like it;
        any other is read from its beginning.
        """
        stepping = {slot: tokens[-1] for slot, tokens in texts.items() if self._goes_on(slot, tokens)}
        dials, kept = steered or {}, begun or {}
        reading = {slot: tokens for slot, tokens in texts.items() if slot not in stepping}
        found = {
            slot: self._read(slot, tokens, dials.get(slot, {}), kept.get(slot, {})) for slot, tokens in reading.items()
        }
        if stepping:
            routed = self._step(stepping)
            if not found:
                return Predicted(routed, list(routed.hidden.unbind()))
            for place, slot in enumerate(stepping):
                one = Routed(*(part[place : place + 1] for part in routed))
                found[slot] = one, one.hidden[0]
        last, new = zip(*(found[slot] for slot in texts), strict=True)
        return Predicted(Routed(*(torch.cat(parts) for parts in zip(*last, strict=True))), list(new))

    def room(self, slot: int, tokens: Sequence[int]) -> int:
        """How many tokens can be tried behind the last of a text; none where it must be read from its beginning."""
        return self._window - self._kept[slot].length - 1 if self._goes_on(slot, tokens) else 0

    def rows(self, slot: int, tokens: Sequence[int]) -> Rows:
        """Where tokens are tried behind what was read of a slot's text."""
        kept, at = self._kept[slot], []
        begin = kept.begin
        for place, token in enumerate(tokens, kept.length):
            begin = place if token == self._model.start_token else begin
            at.append((slot, place, begin))
        at_3R = torch.tensor(at, device=self._model.head.table.device).T.contiguous()
        return Rows(at_3R, turns=len(at), end=kept.length + len(at))

    def try_on(self, slot: int, tokens: Sequence[int]) -> Predicted:
        """What the model predicts behind each of some tokens after a slot's text, read in one step, of which `settle`
        then says how many stay.
        """
        rows = self.rows(slot, tokens)
        routed = self._model.advance(torch.tensor(tokens, device=rows.at_3R.device), rows, self.cache)
        return Predicted(routed, list(routed.hidden.unbind()))

    def settle(self, slot: int, tokens: Sequence[int], stay: int) -> None:
        """Of the tokens that were tried last, the first `stay` belong to the text, and the others were never there."""
        self.cache.rewind(len(tokens) - stay)
        kept = self._kept[slot]
        for token in tokens[:stay]:
            kept.begin = kept.length if token == self._model.start_token else kept.begin
            kept.length += 1

    def leave(self, slot: int) -> None:
        """Forget the text of a slot."""
        self._kept.pop(slot, None)

    def _goes_on(self, slot: int, tokens: Sequence[int]) -> bool:
        kept, first = self._kept.get(slot), context_start(len(tokens), self._window)
        return kept is not None and kept.first == first and first + kept.length == len(tokens) - 1

    def _read(self, slot: int, tokens: Sequence[int], dials: Dials, begun: Carried) -> tuple[Routed, Tensor]:
        first, before = context_start(len(tokens), self._window), self._kept.get(slot)
        one, context = start_steered(self._model, 1, self._window, dials), list(tokens[first:])
        carried = self._carried(before, tokens, first, begun)
        if isinstance(self._model, Chat):
            self._model.carry(one, carried)
        last, hidden_TD = read(self._model, context, one)
        self.cache.join(slot, one)
        new = len(context) if before is None else len(tokens) - before.first - before.length
        start = self._model.start_token
        begin = len(context) - 1 - context[::-1].index(start) if start in context else 0
        self._kept[slot] = _Kept(first, len(context), begin, carried)
        return last, hidden_TD[-new:]

    def _carried(self, before: _Kept | None, tokens: Sequence[int], first: int, begun: Carried) -> Carried:
        """What the model keeps of the first tokens of a text, as far as they are of the document that goes on."""
        if not remembers(self._model):
            return {}
        known, carried = (before.first, before.carried) if before else (0, begun)
        # A start token begins a document of its own, but for that of the text, which goes on from what was begun.
        starts = [place for place in range(max(1, known), first + 1) if tokens[place] == self._model.start_token]
        known, carried = (starts[-1], {}) if starts else (known, carried)
        return fold(self._model, tokens[known:first], carried)

    def _step(self, token_of: Mapping[int, int]) -> Routed:
        at = []
        for slot, token in token_of.items():
            kept = self._kept[slot]
            kept.begin = kept.length if token == self._model.start_token else kept.begin
            at.append((slot, kept.length, kept.begin))
            kept.length += 1
        device = self._model.head.table.device
        rows = Rows(torch.tensor(at, device=device).T.contiguous(), end=max(place for _, place, _ in at) + 1)
        return self._advance(torch.tensor(list(token_of.values()), device=device), rows, self.cache)


def fold(model: Model, tokens: Sequence[int], kept: Carried) -> Carried:
    """What a model that remembers keeps of a text, behind what it kept of what came before."""
    assert isinstance(model, Chat)
    for first in range(0, len(tokens), PIECE):
        kept = model.fold(torch.tensor(tokens[first : first + PIECE]), kept)
    return kept


def read(model: Model, tokens: Sequence[int], cache: Cache) -> tuple[Routed, Tensor]:
    """Read tokens (one row) behind a cache, in pieces that keep the masks small; the last position, and the hidden
    states of all, (T, D).
    """
    assert tokens, "nothing to read"
    pieces = torch.tensor([tokens], device=model.head.table.device).split(PIECE, dim=1)
    routed = [model.extend(piece, cache) for piece in pieces]
    return routed[-1].last(), torch.cat([one.hidden[0] for one in routed])
