"""Packed documents: several in one window, none of which may see another.

B batch, T tokens (queries), S tokens (keys). `documents_BT` numbers the document that each token belongs to.
"""

import torch
from torch import Tensor


def number_documents(tokens_BT: Tensor, start_token: int) -> Tensor:
    """The number of each token's document within its window, (B, T): a start token begins a new one."""
    return (tokens_BT == start_token).cumsum(dim=1)


def causal_mask(documents_BT: Tensor) -> Tensor:
    """True where a query may look: at its own and earlier positions of its own document, (B, 1, T, T)."""
    T = documents_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    return (same_document(documents_BT, documents_BT) & causal_TT)[:, None]


def same_document(query_BT: Tensor, key_BS: Tensor) -> Tensor:
    """True where query and key belong to one document, (B, T, S)."""
    return query_BT[:, :, None] == key_BS[:, None, :]


def document_starts(documents_BT: Tensor) -> Tensor:
    """The index within the window of the first token of each token's document, (B, T)."""
    T = documents_BT.shape[1]
    index_T = torch.arange(T, device=documents_BT.device)
    return torch.where(document_changes(documents_BT), index_T, 0).cummax(dim=1).values


def document_changes(documents_BT: Tensor, last_B: Tensor | None = None) -> Tensor:
    """True at tokens of another document than the token before, (B, T); the first is compared with `last_B`, the
    documents of what came before, or begins one if there is nothing before.
    """
    new_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    new_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    if last_B is not None:
        new_BT[:, 0] = documents_BT[:, 0] != last_B
    return new_BT


def mean_ahead(x_BTD: Tensor, counted_BT: Tensor, documents_BT: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """The mean of x from each position on over `horizon` positions, its own first, as far as its document and the
    window go, (B, T, D); and where there is any, (B, T). What `counted_BT` is False for does not count. It looks ahead:
    for targets, never for what is read.
    """
    T = x_BTD.shape[1]
    last_BT = T - 1 - document_starts(documents_BT.flip(1)).flip(1)
    last_BT = torch.minimum(last_BT, torch.arange(T, device=x_BTD.device) + horizon - 1)

    def ahead(values_BTD: Tensor) -> Tensor:
        sum_BTD = values_BTD.double().cumsum(dim=1)
        return sum_BTD.gather(1, last_BT[..., None].expand_as(sum_BTD)) - sum_BTD + values_BTD

    counted_BT1 = counted_BT[..., None]
    count_BT1 = ahead(counted_BT1.double())
    return (ahead(x_BTD * counted_BT1) / count_BT1.clamp_min(1)).float(), count_BT1[..., 0] > 0


def running_sum(x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
    """Sum over each document so far, in fp32, (B, T, D)."""
    total_BTD = x_BTD.float().cumsum(dim=1)
    before_BTD = torch.cat([torch.zeros_like(total_BTD[:, :1]), total_BTD[:, :-1]], dim=1)
    return total_BTD - before_BTD.gather(1, document_starts(documents_BT)[:, :, None].expand_as(before_BTD))


def running_mean(x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
    """Mean over each document so far, (B, T, D): the causal form of a mean pool, whose last value is the pool
    itself.
    """
    count_BT = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device) - document_starts(documents_BT)
    return (running_sum(x_BTD, documents_BT) / count_BT[:, :, None]).to(x_BTD.dtype)
