"""What would say again what was said: the next token that repeats a run of its document.

B batch, T tokens
"""

import torch
from torch import Tensor

from nano_think.nn.documents import document_starts

NONE = -1


def repeating_next(tokens_BT: Tensor, documents_BT: Tensor, run: int) -> Tensor:
    """The token that would complete a run of `run` tokens for the second time in its document, (B, T); NONE where no
    token would.

    It is the one that came next when the last `run` - 1 tokens stood together before, the last time. What follows the
    position is not looked at. Time O(B T log(B T)).
    """
    assert run >= 2, run
    B, T = tokens_BT.shape
    if not B:
        return tokens_BT
    place_T = torch.arange(T, device=tokens_BT.device)
    whole_BT = place_T - document_starts(documents_BT) >= run - 2
    key_BT = torch.arange(B, device=tokens_BT.device)[:, None] * (T + 2) + documents_BT - documents_BT.amin()
    for back in range(run - 1):
        key_BT = _number(key_BT * (int(tokens_BT.amax()) + 1) + tokens_BT.roll(back, dims=1))
    # A run that reaches into another document is like no other.
    key_BT = torch.where(whole_BT, key_BT, key_BT.numel() + torch.arange(B * T, device=key_BT.device).view(B, T))
    before_S = _last_before(key_BT.flatten())
    next_S = tokens_BT.flatten()[(before_S + 1).clamp_max(B * T - 1)]
    return torch.where(before_S >= 0, next_S, NONE).view(B, T)


def _number(key_BT: Tensor) -> Tensor:
    """The same classes, numbered from 0."""
    return key_BT.unique(return_inverse=True)[1]


def _last_before(key_S: Tensor) -> Tensor:
    """For each place the last place before it with the same key, (S); NONE where there is none."""
    order_S = key_S.argsort(stable=True)
    same = key_S[order_S[1:]] == key_S[order_S[:-1]]
    found_S = torch.full_like(key_S, NONE)
    found_S[order_S[1:][same]] = order_S[:-1][same]
    return found_S
