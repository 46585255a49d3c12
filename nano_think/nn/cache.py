"""What has been read, kept so that nothing is computed twice.

Whoever reads token by token keeps one `Timeline` and one cache per layer or expert. `Timeline.append` turns the
documents of T new tokens into a `Span`; every cached layer takes the new tokens' inputs, the span and its own cache,
and returns what the whole sequence at once would have given for those tokens. T is 1 when a text is written and larger
when one is read; pieces of any sizes give the same.

All rows of a batch stand at the same position. Rows of different lengths are padded on the left (`pad_left`): padding
belongs to a document of its own, which nobody else sees, and rotary positions count by differences alone.

B batch, T new tokens, S tokens so far (the new ones included), N heads, H head width, D channels
"""

from collections.abc import Sequence
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
