"""Every cache equals no cache: whatever is read in pieces gives what it gives at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nano_think.experts import EXPERTS, Expert
from nano_think.models.think import NanoThink
from nano_think.nn.attention import attend_where
from nano_think.nn.cache import Timeline
from nano_think.nn.documents import causal_mask, number_documents
from nano_think.nn.mla import LatentAttention
from tests.tiny import (
    ROUTER_KINDS,
    START,
    draw_tokens,
    few,
    tiny_expert,
    tiny_head,
    tiny_mixture,
)

T = 37
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}
PIECES = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def packed(B: int = 2) -> Tensor:
    return draw_tokens(B, T, starts=(0, 20))


def cut(pieces: list[int], length: int = T) -> list[int]:
    """Lengths that sum to `length`: the pieces as long as they fit, then the rest."""
    lengths = []
    for piece in pieces:
        lengths.append(min(piece, length - sum(lengths)))
    return [one for one in [*lengths, length - sum(lengths)] if one]


@torch.no_grad()
def in_pieces(expert: Expert, tokens_BT: Tensor, pieces: list[int], more: int = 0) -> Tensor:
    """The expert's hidden states, read in pieces behind its cache."""
    head, documents_BT = tiny_head(), number_documents(tokens_BT, START)
    B, S = tokens_BT.shape
    timeline, cache = Timeline(B, S + more), expert.start(B, S + more)
    parts = zip(tokens_BT.split(pieces, 1), documents_BT.split(pieces, 1), strict=True)
    return torch.cat([expert.extend(head.embed(t), timeline.append(d), cache) for t, d in parts], dim=1)


@torch.no_grad()
def at_once(expert: Expert, tokens_BT: Tensor) -> Tensor:
    return expert(tiny_head().embed(tokens_BT), number_documents(tokens_BT, START))


@pytest.mark.parametrize("name", EXPERTS)
@few(12)
@given(pieces=PIECES)
def test_expert_in_pieces_is_the_expert(name: str, pieces: list[int]):
    """Prefill in any chunks, decode by one: packed documents included."""
    expert = tiny_expert(name)
    got = in_pieces(expert, packed(), cut(pieces))
    torch.testing.assert_close(got, at_once(expert, packed()), **TOLERANCE)


@pytest.mark.parametrize("name", EXPERTS)
def test_expert_token_by_token_is_the_expert(name: str):
    expert = tiny_expert(name)
    torch.testing.assert_close(in_pieces(expert, packed(), [1] * T), at_once(expert, packed()), **TOLERANCE)


@torch.no_grad()
def mixture_in_pieces(model: NanoThink, tokens_BT: Tensor, pieces: list[int]) -> list[Tensor]:
    past = model.start(*tokens_BT.shape)
    parts = [model.extend(piece, past) for piece in tokens_BT.split(pieces, 1)]
    return [torch.cat(part, dim=1) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("kind", ROUTER_KINDS)
@few(8)
@given(pieces=PIECES)
def test_mixture_in_pieces_is_the_mixture(kind, pieces: list[int]):
    """Hidden, weights and streams, whatever the router remembers."""
    model = tiny_mixture(kind)
    for got, wanted in zip(mixture_in_pieces(model, packed(), cut(pieces)), model(packed()), strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)


@few(20)
@given(pieces=PIECES, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.6]))
def test_absorbed_decode_is_the_naive_form(pieces: list[int], seed: int, share: float):
    torch.manual_seed(seed)
    layer, u = LatentAttention(12, 3, latent=5, rotated=6), torch.randn(2, T, 12)
    documents_BT = (torch.rand(2, T) < share).cumsum(1)
    timeline, past = Timeline(2, T), layer.start(T)
    with torch.no_grad():
        parts = zip(u.split(cut(pieces), 1), documents_BT.split(cut(pieces), 1), strict=True)
        got = torch.cat([layer.extend(x, timeline.append(d), past) for x, d in parts], dim=1)
        naive = layer(u, attend_where(causal_mask(documents_BT)))
    torch.testing.assert_close(got, naive, atol=1e-5, rtol=1e-5)


def test_absorbed_decode_makes_no_key_and_no_value():
    """Nothing that a decode step makes is as large as the keys of all tokens, and the cache is one row a token."""
    layer, S = LatentAttention(64, 4, latent=8, rotated=4), 200
    timeline, past = Timeline(1, S), layer.start(S)
    documents_BT, sizes = torch.zeros(1, S, dtype=torch.long), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor))
            return out

    with torch.no_grad():
        layer.extend(torch.randn(1, S - 1, 64), timeline.append(documents_BT[:, 1:]), past)
        span = timeline.append(documents_BT[:, :1])
        with Watch():
            layer.extend(torch.randn(1, 1, 64), span, past)
    assert past.rows is not None and past.rows.shape == (1, S, 8 + 4)
    assert max(sizes) <= max(parameter.numel() for parameter in layer.parameters()) < 64 * S
