"""What has been read, kept so that nothing is computed twice.

Whoever reads token by token keeps one `Timeline` and one cache per layer or expert. `Timeline.append` turns the
documents of T new tokens into a `Span`; every cached layer takes the new tokens' inputs, the span and its own cache,
and returns what the whole sequence at once would have given for those tokens. T is 1 when a text is written and larger
when one is read; pieces of any sizes give the same.

All rows of a batch stand at the same position. Rows of different lengths are padded on the left (`pad_left`): padding
belongs to a document of its own, which nobody else sees, and rotary positions count by differences alone.

Texts of different lengths that are written together, each in a row of a batch of its own, are read apart, `join` a
common cache, every one in a slot, and go on by `advance`, one token each: `Rows` says whose, and where. Tokens that are
only tried (`Rows.turns`) may be several of one text, and `rewind` takes the last of them back.

B batch, T new tokens, S tokens so far (the new ones included), N heads, H head width, D channels, R rows of a step
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nano_think.nn.documents import running_sum, same_document

PADDING = -1


class Span(NamedTuple):
    """T tokens behind `first` others: the documents of all of them, (B, S), and what the new ones may not see.

    bias_BNTS, (B, 1, T, S), is 0 where a new token may look (itself and what came before it in its document) and -inf
    elsewhere: what is added to attention scores.
    """

    first: int
    documents_BS: Tensor
    bias_BNTS: Tensor

    @property
    def end(self) -> int:
        """S: the position behind the last new token."""
        return self.documents_BS.shape[1]

    @property
    def documents_BT(self) -> Tensor:
        return self.documents_BS[:, self.first :]


class Timeline:
    """The documents of what has been read, for `batch` rows of at most `capacity` tokens."""

    def __init__(self, batch: int, capacity: int, device: torch.device | str | None = None):
        self.documents_BS = torch.full((batch, capacity), PADDING, dtype=torch.long, device=device)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.documents_BS.shape[1]

    @property
    def left(self) -> int:
        """How many more tokens fit."""
        return self.capacity - self.length

    def number(self, tokens_BT: Tensor, start_token: int) -> Tensor:
        """The documents of new tokens, (B, T), counted on from what was read: a start token begins a new one."""
        documents_BT = (tokens_BT == start_token).cumsum(dim=1)
        return documents_BT + self.documents_BS[:, self.length - 1, None] if self.length else documents_BT

    def append(self, documents_BT: Tensor) -> Span:
        """The span of T new tokens of the given documents."""
        first, T = self.length, documents_BT.shape[1]
        assert self.left >= T, f"{T} tokens do not fit behind {first} of {self.capacity}"
        self.length = first + T
        self.documents_BS[:, first : self.length] = documents_BT
        seen_BS = self.documents_BS[:, : self.length]
        visible_BTS = same_document(documents_BT, seen_BS)
        if T > 1:
            visible_BTS = visible_BTS & torch.ones_like(visible_BTS[0]).tril(first)
        return Span(first, seen_BS, bias_where(visible_BTS)[:, None])

    def ahead(self, rows: int) -> Span:
        """Rows that stand where the next tokens will: they see each other and the open document, and nothing is kept.

        Caches let what they write there be overwritten by the tokens that come.
        """
        seen_BS = self.documents_BS[:, : self.length]
        documents_BS = torch.cat([seen_BS, seen_BS[:, -1:].expand(-1, rows)], dim=1)
        visible_B1S = same_document(documents_BS[:, -1:], documents_BS)
        return Span(self.length, documents_BS, bias_where(visible_B1S)[:, None].expand(-1, -1, rows, -1))


class Slot(NamedTuple):
    """Where in a common cache of `of` slots a text goes that a cache of one row has read, `length` tokens."""

    number: int
    of: int
    length: int

    def room_like(self, one: Tensor, dim: int | None = None, size: int = 0) -> Tensor:
        """Zeros for all slots, each like `one`, which is of one row; of another size along `dim`, if given."""
        shape = list(one.shape)
        if dim is not None:
            shape[dim] = size
        return one.new_zeros(self.of, *shape[1:])


class Rows:
    """One new token for each of R texts: the slot of the caches where it belongs, its place there (how many tokens of
    the slot come before it) and the place of the first token of its document, (3, R).

    It sees what stands from the beginning of its document to itself, or, given `sight_3R`, to another place.

    turns: the tokens are tentative, so many of them that follow each other in one text, of which the last may be taken
    back: what each token writes over is kept until `rewind`. There may be several rows of a token, each at the place of
    the token plus the same distance; row r is of token r modulo `turns`.

    end: a place that no row sees, nor any behind it; unless it is given, the device is asked, and waited for.
    """

    def __init__(self, at_3R: Tensor, sight_3R: Tensor | None = None, turns: int | None = None, end: int | None = None):
        self.at_3R, self.turns, self._end = at_3R, turns, end
        self.sight_3R = at_3R if sight_3R is None else sight_3R

    @property
    def end(self) -> int:
        if self._end is None:
            self._end = int(self.sight_3R[1].max()) + 1
        return self._end

    @property
    def slot_R(self) -> Tensor:
        return self.at_3R[0]

    @property
    def place_R(self) -> Tensor:
        return self.at_3R[1]

    @property
    def fresh_R(self) -> Tensor:
        """True where the token is the first of its document."""
        return self.at_3R[1] == self.at_3R[2]

    def with_next(self) -> "Rows":
        """These rows and behind them as many that stand one place further, in sight of the same documents."""
        at_3Q = torch.cat([self.at_3R, self.at_3R + self.at_3R.new_tensor([[0], [1], [0]])], dim=1)
        return Rows(at_3Q, turns=self.turns, end=self._later(1))

    def ahead(self, size: int) -> "Rows":
        """Of one row: a block of `size` rows that stand where the next tokens will and see each other."""
        slot, place, begin = self.at_3R.expand(-1, size)
        next_R = place + torch.arange(1, size + 1, device=place.device)
        sight_3R = torch.stack([slot, place + size, begin])
        return Rows(torch.stack([slot, next_R, begin]), sight_3R, end=self._later(size))

    def with_ahead(self, size: int) -> "Rows":
        """One row, and behind it `ahead` of it."""
        ahead = self.ahead(size)
        at_3R, sight_3R = torch.cat([self.at_3R, ahead.at_3R], dim=1), torch.cat([self.sight_3R, ahead.sight_3R], dim=1)
        return Rows(at_3R, sight_3R, end=self._later(size))

    def last(self) -> "Rows":
        """The last of these rows."""
        return Rows(self.at_3R[:, -1:].contiguous(), turns=self.turns and 1, end=self._end)

    def in_turn(self, step: "Callable[[Tensor, Rows], Tensor]", x_RI: Tensor) -> Tensor:
        """`step` of these rows: of tentative ones, of one token after another."""
        if self.turns is None:
            return step(x_RI, self)
        parts = [
            step(x_RI[n :: self.turns].contiguous(), Rows(self.at_3R[:, n :: self.turns].contiguous(), end=self._end))
            for n in range(self.turns)
        ]
        return torch.stack(parts, dim=1).flatten(0, 1)

    def _later(self, places: int) -> int | None:
        return None if self._end is None else self._end + places


class Trail:
    """What a state, which every token writes over, was before each of the tokens that may be taken back."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, list[Tensor]]] = []

    def in_turn(
        self, step: Callable[[Tensor, Rows], Tensor], x_RI: Tensor, rows: Rows, states: Sequence[Tensor]
    ) -> Tensor:
        """`Rows.in_turn`, noting of tentative tokens what the states of their slot were before."""

        def noted(x_1I: Tensor, row: Rows) -> Tensor:
            self._kept.append((row.slot_R, [state[row.slot_R] for state in states]))
            return step(x_1I, row)

        return rows.in_turn(step if rows.turns is None else noted, x_RI)

    def rewind(self, tokens: int, states: Sequence[Tensor]) -> None:
        """Make the states what they were before the last `tokens`; those that are left stay for good."""
        if tokens:
            slot_R, before = self._kept[-tokens]
            for state, was in zip(states, before, strict=True):
                state[slot_R] = was
        self._kept.clear()


def bias_where(visible: Tensor) -> Tensor:
    """0 where true and -inf elsewhere: what a mask adds to scores."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))


def pad_left(rows: Sequence[Sequence[int]], start_token: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as one batch that ends together: tokens and their documents, (B, T) each."""
    T = max(map(len, rows))
    tokens_BT = torch.tensor([[start_token] * (T - len(row)) + list(row) for row in rows])
    padding_B1 = torch.tensor([[T - len(row)] for row in rows])
    is_padding_BT = torch.arange(T) < padding_B1
    documents_BT = ((tokens_BT == start_token) & ~is_padding_BT).cumsum(dim=1)
    return tokens_BT, documents_BT.masked_fill_(is_padding_BT, PADDING)


class KeyValues:
    """Keys and values of one attention layer, in buffers that are allocated at the first write.

    `margin` rows more than `capacity` can be written in place; what does not fit even there is seen once and not kept.
    """

    def __init__(self, capacity: int, margin: int = 0):
        self.size = capacity + margin
        self.buffers: tuple[Tensor, Tensor] | None = None

    def write(self, first: int, k_BNTH: Tensor, v_BNTH: Tensor) -> list[Tensor]:
        """Put T rows at `first`, over what was there; all keys and all values up to their end, (B, N, S, H) each."""
        if self.buffers is None:
            B, N, _, H = k_BNTH.shape
            self.buffers = k_BNTH.new_empty(B, N, self.size, H), v_BNTH.new_empty(B, N, self.size, H)
        return [self._put(*part, first) for part in zip(self.buffers, (k_BNTH, v_BNTH), strict=True)]

    def all(self) -> tuple[Tensor, Tensor]:
        """The buffers, (B, N, capacity + margin, H) each."""
        assert self.buffers is not None, "nothing has been read"
        return self.buffers

    def join(self, one: "KeyValues", slot: Slot) -> None:
        """Keep in a slot what a cache of one row has read."""
        if self.buffers is None:
            k_BNSH, v_BNSH = one.all()
            self.buffers = slot.room_like(k_BNSH, 2, self.size), slot.room_like(v_BNSH, 2, self.size)
        for mine, other in zip(self.all(), one.all(), strict=True):
            mine[slot.number, :, : slot.length] = other[0, :, : slot.length]

    def _put(self, buffer: Tensor, new: Tensor, first: int) -> Tensor:
        T, kept = new.shape[2], min(new.shape[2], self.size - first)
        buffer.narrow(2, first, kept).copy_(new if kept == T else new.narrow(2, 0, kept))
        old = buffer.narrow(2, 0, first + kept)
        return old if kept == T else torch.cat([old, new.narrow(2, kept, T - kept)], dim=2)


class AttendCached:
    """The rule of who sees whom for new tokens: an `Attend` that keeps their keys and values."""

    def __init__(self, cache: KeyValues, span: Span):
        self.cache, self.span = cache, span

    def __call__(self, q_BNTH: Tensor, k_BNTH: Tensor, v_BNTH: Tensor) -> Tensor:
        k_BNSH, v_BNSH = self.cache.write(self.span.first, k_BNTH, v_BNTH)
        return scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=self.span.bias_BNTS.to(q_BNTH.dtype))


class RunningMean:
    """The mean over each row's open document so far, in constant memory."""

    def __init__(self) -> None:
        self.sum_BD1: Tensor | None = None
        self._trail = Trail()

    def join(self, one: "RunningMean", slot: Slot) -> None:
        """Keep in a slot what a cache of one row has read."""
        if one.sum_BD1 is not None:
            self.sum_BD1 = slot.room_like(one.sum_BD1) if self.sum_BD1 is None else self.sum_BD1
            self.sum_BD1[slot.number] = one.sum_BD1[0]

    def advance(self, x_RD: Tensor, rows: Rows) -> Tensor:
        """The means up to one new token of each row, (R, D)."""
        assert self.sum_BD1 is not None, "no text has joined"
        return self._trail.in_turn(self._advance, x_RD, rows, [self.sum_BD1])

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        if self.sum_BD1 is not None:
            self._trail.rewind(tokens, [self.sum_BD1])

    def _advance(self, x_RD: Tensor, rows: Rows) -> Tensor:
        assert self.sum_BD1 is not None
        x_RD1 = torch.cat([x_RD.float(), torch.ones_like(x_RD[:, :1], dtype=torch.float32)], dim=-1)
        sum_RD1 = x_RD1 + self.sum_BD1[rows.slot_R].masked_fill(rows.fresh_R[:, None], 0.0)
        self.sum_BD1[rows.slot_R] = sum_RD1
        return (sum_RD1[:, :-1] / sum_RD1[:, -1:]).to(x_RD.dtype)

    def extend(self, x_BTD: Tensor, span: Span) -> Tensor:
        """The means up to each of T new tokens, (B, T, D): those of `running_mean` over everything.

        What is carried, the open document's sum and its number of tokens, goes before the new tokens as one more.
        """
        x_BTD1 = torch.cat([x_BTD.float(), torch.ones_like(x_BTD[..., :1], dtype=torch.float32)], dim=-1)
        if self.sum_BD1 is None:
            self.sum_BD1 = torch.zeros_like(x_BTD1[:, 0])
        before = max(0, span.first - 1)
        documents_BT1 = torch.cat([span.documents_BS[:, before : before + 1], span.documents_BT], dim=1)
        sum_BTD1 = running_sum(torch.cat([self.sum_BD1[:, None], x_BTD1], dim=1), documents_BT1)[:, 1:]
        self.sum_BD1 = sum_BTD1[:, -1]
        return (sum_BTD1[..., :-1] / sum_BTD1[..., -1:]).to(x_BTD.dtype)
