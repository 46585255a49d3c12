"""Scratch memory with a learned way of reading: what one document has said so far, mixed into what the model says next.

p(v) = (1 - g_t) p_model(v) + g_t p_memory(v), p_memory(v) proportional to the sum of exp(tau <q_t, k_j>) over earlier
tokens j that were followed by v; keys and queries are W h of length 1, and g_t = sigmoid(a . f_t + b) of what was
found. W, tau, a and b are learned on whole documents, the model frozen (Zhong, Lei and Chen 2022, "Training language
models with memory augmentation", eq. 2 and 3: every earlier token is in the memory, none is searched for).

T tokens of a document, S entries, V sets of values, D model width, F features
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

Reach = Literal["all", "beyond"]
REACHES: tuple[Reach, ...] = ("all", "beyond")
FEATURES = 3
BLOCK = 512
# Tokens of a document that are trained on at once: all their pairs are in memory.
LONGEST = 2048


class Told(NamedTuple):
    """What the model said of T tokens of one document: states (T, D), the tokens that came (T) and their nats (T)."""

    hidden: Tensor
    target: Tensor
    nats: Tensor


class Recalled(NamedTuple):
    """What a memory says of T tokens: log p_memory of the one that came, by what is remembered to have come before,
    (V, T); the gate's logit, (T); and whether there is anything to remember, (T).
    """

    memory: Tensor
    gate: Tensor
    some: Tensor

    def mixed(self, nats_T: Tensor, number: int = 0) -> Tensor:
        """Nats of each token with the memory mixed in, (T). A token without entries keeps the model's own, bit for bit.

        number: by which of the V sets of values.
        """
        mixed_T = -torch.logaddexp(logsigmoid(-self.gate) - nats_T, logsigmoid(self.gate) + self.memory[number])
        return torch.where(self.some, mixed_T, nats_T)


class ScratchReader(nn.Module):
    """How a document's earlier tokens are compared with, and how much they count.

    reach: "all" earlier tokens, or only those "beyond" the window that the model itself sees, which are its document's
    earlier windows. Each has a sharpness and a gate of its own; the map W is one. It starts as no map.
    """

    def __init__(self, width: int, sharpness: float = 20.0, share: float = 0.1):
        super().__init__()
        self.map = nn.Parameter(torch.eye(width))
        self.log_sharpness = nn.Parameter(torch.full((len(REACHES),), sharpness).log())
        self.gate = nn.Parameter(torch.zeros(len(REACHES), FEATURES))
        self.bias = nn.Parameter(torch.full((len(REACHES),), share).logit())

    def keys(self, hidden_TD: Tensor) -> Tensor:
        """W h, of length 1."""
        return normalize(hidden_TD.float() @ self.map.T, dim=-1)

    def recall(self, told: Told, window: int, reach: Reach, values: Sequence[Tensor] = ()) -> Recalled:
        """What the earlier tokens of a document say of each of its tokens.

        window: tokens that the model sees in one piece, from the document's first on. values: sets of what is
        remembered to have come, (T) each; without any, what came.
        """
        key_TD, values = self.keys(told.hidden), values or (told.target,)
        blocks = [slice(first, first + BLOCK) for first in range(0, len(key_TD), BLOCK)]
        parts = [self._recall(rows, key_TD, told.target, values, window, reach) for rows in blocks]
        return Recalled(*(torch.cat(part, dim=-1) for part in zip(*parts, strict=True)))

    def _recall(
        self, rows: slice, key_SD: Tensor, target_S: Tensor, values: Sequence[Tensor], window: int, reach: Reach
    ) -> Recalled:
        """Of some tokens. An entry is there for a token only if what it holds has been read before."""
        at, place_T = REACHES.index(reach), torch.arange(len(key_SD))[rows]
        end_T = place_T if reach == "all" else place_T // window * window
        older_TS, some_T = torch.arange(len(key_SD)) < end_T[:, None], end_T > 0
        score_TS = (self.log_sharpness[at].exp() * key_SD[rows] @ key_SD.T).masked_fill(~older_TS, -torch.inf)
        # A row without entries would be NaN, forward and backward; its result is not used.
        score_TS = torch.where(some_T[:, None], score_TS, 0.0)
        share_TS = score_TS.log_softmax(dim=-1)
        memory = []
        for value_S in values:
            right_TS = (value_S == target_S[rows, None]) & older_TS
            # A token that is nowhere in the memory has probability 0 there, whose logarithm has no slope.
            memory.append(share_TS.masked_fill(~right_TS, -torch.inf).exp().sum(-1).clamp_min(1e-20).log())
        gate_T = self._features(score_TS, share_TS, end_T, at) @ self.gate[at] + self.bias[at]
        return Recalled(torch.stack(memory), gate_T, some_T)

    def _features(self, score_TS: Tensor, share_TS: Tensor, end_T: Tensor, at: int) -> Tensor:
        """Of each token, without knowing what comes, (T, F): the largest similarity, how much one entry outweighs the
        others, and how many there are; each of the size of 1.
        """
        top_T = score_TS.amax(dim=-1) / self.log_sharpness[at].exp()
        return torch.stack([2 * top_T - 1, share_TS.amax(dim=-1).exp(), end_T.clamp_min(1).log() / 8], dim=-1)


def train_reader(documents: list[Told], width: int, window: int, epochs: int = 6, rate: float = 0.03) -> ScratchReader:
    """A reader trained on documents, of long ones the beginning, with both reaches, by Adam with a falling rate; it
    draws nothing.
    """
    reader = ScratchReader(width)
    found = [Told(*(part[:LONGEST] for part in one)) for one in documents if len(one.target) > 1]
    # The map has many entries that add up.
    few = [reader.log_sharpness, reader.gate, reader.bias]
    optimizer = torch.optim.Adam([{"params": [reader.map], "lr": rate / 5}, {"params": few, "lr": rate}])
    steps = epochs * len(found)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    for step in range(steps):
        # A stride that is prime to the count goes through all documents in another order than they came in.
        told = found[step * 7919 % len(found)]
        reaches = [one for one in REACHES if one == "all" or len(told.target) > window]
        loss = torch.stack([reader.recall(told, window, reach).mixed(told.nats).mean() for reach in reaches]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.requires_grad_(False)
