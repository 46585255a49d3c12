"""How likely a model finds parts of rows of tokens.

B rows in a batch, T tokens
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.models.chat import Model

BATCH_TOKENS = 8_192


class Row(NamedTuple):
    """Ids with their start token, and which of them count as targets (the first never does)."""

    ids: list[int]
    counted: list[bool]


@torch.inference_mode()
def nats_of(model: Model, rows: Sequence[Row]) -> list[float]:
    """-log p of the counted tokens of each row, summed, in nats; every row is read by itself, from its first token."""
    assert not model.training, "evaluate in evaluation mode"
    found = [0.0] * len(rows)
    for batch in _batches(rows):
        tokens_BT, counted_BT = _pad([rows[index] for index in batch], model.start_token)
        tokens_BT, counted_BT = tokens_BT.to(model.head.table.device), counted_BT.to(model.head.table.device)
        nll_BT = model.nll(model(tokens_BT[:, :-1]), tokens_BT[:, 1:])
        for index, nats in zip(batch, (nll_BT * counted_BT[:, 1:]).double().sum(dim=1).tolist(), strict=True):
            found[index] = nats
    return found


def _batches(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Indices of rows of like length together, so that little is padded."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda one: (len(rows[one].ids), one)):
        if batch and (len(batch) + 1) * len(rows[index].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(rows: Sequence[Row], start_token: int) -> tuple[Tensor, Tensor]:
    """Ids and what counts, (B, T); padding stands behind, as documents of their own that count nothing."""
    T = max(2, max(len(row.ids) for row in rows))
    tokens_BT = torch.tensor([row.ids + [start_token] * (T - len(row.ids)) for row in rows])
    counted_BT = torch.tensor([list(row.counted) + [False] * (T - len(row.ids)) for row in rows])
    return tokens_BT, counted_BT
