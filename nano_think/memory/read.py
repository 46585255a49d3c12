"""Reading a memory: neighbours' next tokens, mixed into the model's distribution.

p(v) = (1 - g) p_model(v) + g p_memory(v), p_memory(v) proportional to the sum of exp(tau <q, k_j>) over neighbours j
with value v (Khandelwal et al. 2020, kNN-LM, eq. 2 and 3). An entry is always strictly older than the query.

T tokens, k neighbours, D model width
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano_think.nn.native import have_kernel, ops

NEIGHBOURS = 16
GATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
SHARPNESS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How much a memory counts: its share g of the mixture (0 to 1) and the sharpness tau of its similarities."""

    share: float = 0.0
    sharpness: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Similarities (T, k), -inf where there is no neighbour, and the neighbours' values (T, k), -1 there.

    `weight` (T, k): how many entries each neighbour stands for, after near-duplicates were merged; 1 each unless given.
    """

    similarity: Tensor
    value: Tensor
    weight: Tensor | None = None

    def share(self, sharpness: float) -> Tensor:
        """What each neighbour counts, w_j exp(tau <q, k_j>) over the sum of these, (T, k); 0 where none is."""
        score_Tk = self.similarity * sharpness
        if self.weight is not None:
            score_Tk = torch.where(self.value >= 0, score_Tk + self.weight.log(), score_Tk)
        return torch.softmax(score_Tk, dim=-1).nan_to_num(0.0)

    def probability(self, target_T: Tensor, sharpness: float) -> Tensor:
        """p_memory of each target, (T); 0 where nothing was found."""
        return (self.share(sharpness) * (self.value == target_T[:, None])).sum(-1)

    @classmethod
    def join(cls, parts: Sequence["Neighbours"]) -> "Neighbours":
        """The rows of all parts, in order; neighbours of parts without weights count 1."""
        weights = [torch.ones_like(p.similarity) if p.weight is None else p.weight for p in parts]
        plain = all(p.weight is None for p in parts)
        similarity, value = torch.cat([p.similarity for p in parts]), torch.cat([p.value for p in parts])
        return cls(similarity=similarity, value=value, weight=None if plain else torch.cat(weights))

    @property
    def found(self) -> Tensor:
        """True where there is at least one neighbour, (T)."""
        return self.value[:, 0] >= 0


def mixed_nll(nll_T: Tensor, target_T: Tensor, neighbours: Neighbours, gate: Gate) -> Tensor:
    """Nats of each target with the memory mixed in, (T). A query without neighbours keeps the model's own, bit for
    bit.
    """
    if not gate.share:
        return nll_T
    memory_T = neighbours.probability(target_T, gate.sharpness)
    # In logarithms: exp(-nll) is 0 in fp32 beyond 103 nats.
    mixed_T = -torch.logaddexp(math.log1p(-gate.share) - nll_T, torch.log(gate.share * memory_T))
    return torch.where(neighbours.found, mixed_T, nll_T)


def mix_distribution(p_V: Tensor, neighbours: Neighbours, gate: Gate) -> Tensor:
    """One token's distribution, (V), with the memory mixed in; `neighbours` holds one row."""
    if not gate.share or not neighbours.found[0]:
        return p_V
    weight_k = neighbours.share(gate.sharpness)[0]
    known_k = neighbours.value[0] >= 0
    return ((1 - gate.share) * p_V).index_add(0, neighbours.value[0][known_k], gate.share * weight_k[known_k])


def mix_logits(logits_V: Tensor, neighbours: Neighbours, gate: Gate) -> Tensor:
    """As `mix_distribution`, from logits to logits: ln p of the mixture + ln sum exp(logits), (V), fp32. What nobody
    remembers falls by -ln(1 - g).
    """
    logits_V = logits_V.float().contiguous()
    if not have_kernel(logits_V):
        return mix_logits_plainly(logits_V, neighbours, gate)
    weight_1k = torch.ones_like(neighbours.similarity) if neighbours.weight is None else neighbours.weight
    return ops.mix_remembered(
        logits_V, neighbours.similarity, neighbours.value, weight_1k, gate.share, gate.sharpness
    )  # fmt: skip


def mix_logits_plainly(logits_V: Tensor, neighbours: Neighbours, gate: Gate) -> Tensor:
    """The plain twin of `mix_logits`."""
    known_k = neighbours.value[0] >= 0
    if not gate.share or not known_k.any():
        return logits_V
    weight_k = neighbours.share(gate.sharpness)[0]
    memory_V = torch.zeros_like(logits_V).index_add(0, neighbours.value[0][known_k], gate.share * weight_k[known_k])
    mixed_V = torch.logaddexp(logits_V.log_softmax(dim=-1) + math.log1p(-gate.share), memory_V.log())
    return mixed_V + logits_V.logsumexp(dim=-1)


def fit_gate(nll_T: Tensor, target_T: Tensor, neighbours: Neighbours) -> Gate:
    """The gate with the least mean loss on the given tokens, by a grid; share 0 (off) where nothing helps."""
    grid = [Gate(share=share, sharpness=tau) for share in GATES for tau in SHARPNESS]
    return min(grid, key=lambda gate: mixed_nll(nll_T, target_T, neighbours, gate).mean().item())


def earlier_in_document(query_TD: Tensor, key_SD: Tensor, value_S: Tensor, first: int, k: int) -> Neighbours:
    """Neighbours among the earlier tokens of one document (its scratch memory).

    Query t stands at position `first` + t and predicts the token after it; entry j holds the token after position j, so
    it exists for the query only if j is strictly smaller: what it holds has then been read.
    """
    position_T = first + torch.arange(len(query_TD), device=query_TD.device)
    older_TS = torch.arange(len(key_SD), device=query_TD.device) < position_T[:, None]
    similarity_TS = (query_TD @ key_SD.T).masked_fill(~older_TS, float("-inf"))
    similarity_Tk, entry_Tk = similarity_TS.topk(min(k, len(key_SD)), dim=-1)
    return Neighbours(similarity=similarity_Tk, value=torch.where(similarity_Tk.isinf(), -1, value_S[entry_Tk]))


def to_key(hidden: Tensor) -> Tensor:
    """Hidden states of any shape as keys and queries: fp32 and of length 1."""
    return torch.nn.functional.normalize(hidden.float(), dim=-1)
