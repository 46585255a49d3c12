"""Summaries in columns, like the digits of a number: K summaries of a column become one in the next.

The first column holds summaries of one segment each, the next ones of K segments, of K^2 and so on: a text of T tokens
needs O(log T) of them. The last column keeps its K newest and forgets what is older; with one column this is a queue.
What is recent stands apart, and what is old stands together (as in Fenwick's trees; Guo et al. 2025, log-linear
attention).

A summary is known by its count: the how-many-th of its size it is in its document, 1 for the first.

B batch, T tokens, M summaries of one size, K places of a column (the base), S slots of a summary, D model width
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Column(NamedTuple):
    """Summaries of one size, oldest first: (B, M, S, D); their counts, 0 for none, and their documents, (B, M)."""

    summary_BMSD: Tensor
    count_BM: Tensor
    document_BM: Tensor

    def behind(self, earlier: "Column") -> "Column":
        """Those of an earlier column, and behind them these."""
        return Column(*(torch.cat(parts, dim=1) for parts in zip(earlier, self, strict=True)))


def find_ends(offset_BT: Tensor, segment: int) -> Tensor:
    """The places of the tokens that end a segment, (B, M), T for none; offset_BT: the tokens before each in its
    document.
    """
    T = offset_BT.shape[1]
    return _places((offset_BT + 1) % segment == 0, (T - 1) // segment + 1)


def full(column: Column, earlier: Column, base: int, merge: Callable[[Tensor], Tensor]) -> Column:
    """The summaries of the next size that these complete, with what an earlier piece of the text has left.

    merge: summaries side by side, oldest first, (B, M, K, S, D) -> one each, (B, M, S, D). earlier: (B, K, S, D), each
    at its place, which is its count less 1 modulo K.
    """
    M, K = column.count_BM.shape[1], base
    ends_BM = (column.count_BM > 0) & (column.count_BM % K == 0)
    place_BN = _places(ends_BM, (M - 1) // K + 1)
    found_BN, last_BN = place_BN < M, place_BN.clamp_max(M - 1)
    member_BNK = last_BN[..., None] - torch.arange(K - 1, -1, -1, device=place_BN.device)
    # The oldest member stands at place 0 of what was left, as its count is 1 modulo K.
    left_K = torch.arange(K, device=place_BN.device)
    member_BNK = torch.where(member_BNK >= 0, member_BNK + K, left_K)
    both_BXSD = torch.cat([earlier.summary_BMSD, column.summary_BMSD], dim=1)
    merged_BNSD = merge(pick(both_BXSD, member_BNK.flatten(1)).unflatten(1, member_BNK.shape[1:]))
    count_BN = torch.where(found_BN, column.count_BM.gather(1, last_BN) // K, 0)
    return Column(merged_BNSD, count_BN, column.document_BM.gather(1, last_BN))


def newest(count_B: Tensor, base: int) -> Tensor:
    """Of so many summaries the count of the newest at each place, (B, K), 0 for none."""
    place_K = torch.arange(base, device=count_B.device)
    return (count_B[:, None] - (count_B[:, None] - 1 - place_K) % base).clamp_min(0)


def stands(count_BX: Tensor, total_BT: Tensor, base: int, last: bool) -> Tensor:
    """Whether summaries are in their column when there were so many of their size, (B, T, X): those of a group that is
    not full, and in the last column the newest K.
    """
    count_B1X, total_BT1 = count_BX[:, None], total_BT[..., None]
    there = (count_B1X > 0) & (count_B1X <= total_BT1)
    return there & ((count_B1X > total_BT1 - base) if last else ((count_B1X - 1) // base == total_BT1 // base))


def keep(column: Column, total_B: Tensor, document_B: Tensor, base: int, last: bool) -> Tensor:
    """What is in the column of a document that has so many summaries of its size, each at its place, (B, K, S, D),
    zeros where there is none.
    """
    wanted_BK = newest(total_B, base)
    same_BKX = (column.count_BM[:, None] == wanted_BK[..., None]) & (column.document_BM == document_B[:, None])[:, None]
    there_BK = same_BKX.any(-1) & stands(wanted_BK, total_B[:, None], base, last)[:, 0]
    kept_BKSD = pick(column.summary_BMSD, same_BKX.int().argmax(-1))
    return kept_BKSD.masked_fill(~there_BK[..., None, None], 0.0)


def pick(x_BXSD: Tensor, place_BN: Tensor) -> Tensor:
    """x at the given places of its second dimension, (B, N, S, D)."""
    return x_BXSD[torch.arange(len(x_BXSD), device=x_BXSD.device)[:, None], place_BN]


def _places(true_BT: Tensor, most: int) -> Tensor:
    """Where it is true, in order, (B, most); T where there is nothing more."""
    T = true_BT.shape[1]
    place_T = torch.arange(T, device=true_BT.device)
    return torch.where(true_BT, place_T, T).sort(dim=1).values[:, :most]
