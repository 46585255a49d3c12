"""Weighing K streams of hidden states: what a router does over experts.

B batch, T tokens, D model width, K streams, R rows of a step
"""

from typing import Literal

import torch
from torch import Tensor, nn

from nano_think.nn.cache import Rows, RunningMean, Span
from nano_think.nn.documents import running_mean
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rows import linear_rows

BlendKind = Literal["static", "mean", "token", "expert"]


class Blend(nn.Module):
    """Softmax weights over K streams, and their weighted sum times one learned scale, if it is to have one.

    kind: what the weights may depend on. "static": nothing; "mean": the running mean of the context (the first design's
    MeanPool, made causal); "token": the context of the token; "expert": that and the streams themselves. Every kind
    starts at equal weights. With a head that is linear and shared, the sum of hiddens is a product of experts, which on
    the simplex is never sharper than its members: hence the scale.
    """

    def __init__(self, width: int, n_streams: int, kind: BlendKind, scaled: bool = True):
        super().__init__()
        self.kind, self.n_streams, self.scaled = kind, n_streams, scaled
        self.bias = nn.Parameter(torch.zeros(n_streams))
        if scaled:
            self.scale = nn.Parameter(torch.ones(()))
        if kind != "static":
            self.norm_context = RMSNorm(width)
            self.read_context = linear(width, n_streams, zero=True)
        if kind == "expert":
            self.norm_streams = RMSNorm(width)
            self.read_streams = linear(n_streams * width, n_streams, zero=True)

    def weights(
        self, context_BTD: Tensor, streams_BTKD: Tensor, documents_BT: Tensor, dropped_BK: Tensor | None = None,
        steer_BK: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The weights, (B, T, K): not negative, summing to 1 in fp32. `dropped_BK` is True for streams left out;
        `steer_BK` is added to what the softmax is taken of (nats).
        """
        pooled_BTD = running_mean(context_BTD, documents_BT) if self.kind == "mean" else context_BTD
        return self._weights(pooled_BTD, streams_BTKD, dropped_BK, steer_BK)

    def extend(
        self, context_BTD: Tensor, streams_BTKD: Tensor, span: Span, cache: RunningMean, steer_BK: Tensor | None = None
    ) -> Tensor:
        """The weights of new tokens, (B, T, K), of which only the kind "mean" asks what came before."""
        pooled_BTD = cache.extend(context_BTD, span) if self.kind == "mean" else context_BTD
        return self._weights(pooled_BTD, streams_BTKD, None, steer_BK)

    def advance(
        self, context_RD: Tensor, streams_RKD: Tensor, rows: Rows, cache: RunningMean, steer_RK: Tensor | None = None
    ) -> Tensor:
        """The weights of one new token of each of R rows, (R, K)."""
        pooled_RD = cache.advance(context_RD, rows) if self.kind == "mean" else context_RD
        logits_RK = self.bias.expand(len(context_RD), -1).contiguous()
        if self.kind != "static":
            logits_RK = linear_rows(pooled_RD.float(), self.read_context.weight, self.norm_context, add_RO=logits_RK)
        if self.kind == "expert":
            streams_RE = self.norm_streams(streams_RKD.float()).flatten(1)
            logits_RK = linear_rows(streams_RE, self.read_streams.weight, add_RO=logits_RK)
        logits_RK = logits_RK if steer_RK is None else logits_RK + steer_RK
        return logits_RK.float().softmax(dim=-1)

    def _weights(
        self, context_BTD: Tensor, streams_BTKD: Tensor, dropped_BK: Tensor | None, steer_BK: Tensor | None = None
    ) -> Tensor:
        logits_BTK = self.bias.expand(*context_BTD.shape[:2], -1)
        if self.kind != "static":
            logits_BTK = logits_BTK + self.read_context(self.norm_context(context_BTD.float()))
        if self.kind == "expert":
            logits_BTK = logits_BTK + self.read_streams(self.norm_streams(streams_BTKD.float()).flatten(2))
        if steer_BK is not None:
            logits_BTK = logits_BTK + steer_BK[:, None]
        if dropped_BK is not None:
            logits_BTK = logits_BTK.masked_fill(dropped_BK[:, None], float("-inf"))
        return logits_BTK.float().softmax(dim=-1)

    def fuse(self, weights_BTK: Tensor, streams_BTKD: Tensor) -> Tensor:
        """scale * sum_k w_k h_k, (B, T, D)."""
        sum_BTD = weighted_sum(weights_BTK, streams_BTKD)
        return self.scale * sum_BTD if self.scaled else sum_BTD

    def fuse_rows(self, weights_RK: Tensor, streams_RKD: Tensor) -> Tensor:
        """`fuse` of the rows of a step, (R, D)."""
        sum_RD = (weights_RK[..., None] * streams_RKD).sum(dim=1)
        return self.scale * sum_RD if self.scaled else sum_RD


def weighted_sum(weights_BTK: Tensor, streams_BTKD: Tensor) -> Tensor:
    """sum_k w_k h_k, (B, T, D): one row of K weights times a K x D matrix per token."""
    return (weights_BTK.to(streams_BTKD.dtype)[:, :, None] @ streams_BTKD).squeeze(2)
