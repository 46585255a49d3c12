"""Routing weights, and what a weighted sum in the space of a linear, shared head means."""

import pytest
import torch

from nano_think.experts import EXPERTS
from nano_think.nn.blend import Blend, weighted_sum
from nano_think.nn.linear import linear
from nano_think.nn.mlp import SwiGLU
from tests.perturbation import randomise_zeros
from tests.tiny import ROUTER_KINDS, draw_tokens, tiny_mixture

B, T, D, K = 2, 9, 8, 4


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(B, T, D), torch.randn(B, T, K, D), (torch.rand(B, T) < 0.2).cumsum(1)


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_weights_are_a_distribution(kind):
    blend = randomise_zeros(Blend(D, K, kind), scale=5.0)
    weights_BTK = blend.weights(*inputs())
    assert weights_BTK.shape == (B, T, K) and weights_BTK.dtype == torch.float32
    assert (weights_BTK >= 0).all() and weights_BTK.std() > 0.01
    torch.testing.assert_close(weights_BTK.sum(-1), torch.ones(B, T), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_weights_start_equal_and_the_scale_at_one(kind):
    blend = Blend(D, K, kind)
    assert (blend.weights(*inputs()) == 1 / K).all() and blend.scale == 1


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_a_dropped_stream_weighs_nothing_and_the_rest_share(kind):
    blend, dropped = randomise_zeros(Blend(D, K, kind)), torch.zeros(B, K, dtype=torch.bool)
    dropped[0, 2] = True
    context, streams, documents = inputs()
    full, less = blend.weights(context, streams, documents), blend.weights(context, streams, documents, dropped)
    assert (less[0, :, 2] == 0).all() and torch.equal(less[1], full[1])
    kept = full[0].index_fill(1, torch.tensor([2]), 0.0)
    torch.testing.assert_close(less[0], kept / kept.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_kind_says_what_the_weights_may_depend_on(kind):
    blend = randomise_zeros(Blend(D, K, kind))
    context, streams, documents = inputs()
    before = blend.weights(context, streams, documents)
    by_context = not torch.equal(before, blend.weights(context + torch.randn_like(context), streams, documents))
    by_streams = not torch.equal(before, blend.weights(context, streams + torch.randn_like(streams), documents))
    assert (by_context, by_streams) == (kind != "static", kind == "expert")


def test_weighted_sum_is_the_sum():
    weights, streams = torch.rand(B, T, K), torch.randn(B, T, K, D)
    torch.testing.assert_close(weighted_sum(weights, streams), (weights[..., None] * streams).sum(2))


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_fused_logits_are_the_weighted_logits(kind):
    """The head is linear and shared, so with scale 1 the mixture is a product of experts."""
    model = tiny_mixture(kind)
    with torch.no_grad():
        model.router.blend.scale.fill_(1.0)
        routed = model(draw_tokens(2, 15))
        each = model.head.logits(routed.streams)
    expected = (routed.weights[..., None] * each).sum(2)
    torch.testing.assert_close(model.head.logits(routed.hidden), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", range(len(EXPERTS)), ids=list(EXPERTS))
def test_a_one_hot_weight_is_the_expert_itself(k: int):
    model = tiny_mixture("static")
    with torch.no_grad():
        model.router.blend.scale.fill_(1.0)
        model.router.blend.bias.fill_(-torch.inf)[k] = 0.0
        routed = model(draw_tokens(2, 15))
    assert torch.equal(routed.hidden, routed.streams[:, :, k])
    documents_BT = torch.ones(2, 15)
    with torch.no_grad():
        alone = list(model.experts.values())[k](model.head.embed(draw_tokens(2, 15)), documents_BT)
    assert torch.equal(routed.hidden, alone)


def test_scale_multiplies_the_sum():
    blend = Blend(D, K, "static")
    with torch.no_grad():
        blend.scale.fill_(1.7)
    weights, streams = torch.rand(B, T, K), torch.randn(B, T, K, D)
    torch.testing.assert_close(blend.fuse(weights, streams), 1.7 * (weights[..., None] * streams).sum(2))


def test_swiglu_is_its_equation():
    layer = randomise_zeros(SwiGLU(6, 10))
    x = torch.randn(2, 3, 6)
    gate, up = layer.gate_up.weight.split(10)
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_linear_keeps_the_variance_or_is_zero():
    x = torch.randn(2000, 64)
    assert linear(64, 64)(x).std().item() == pytest.approx(1.0, rel=0.1)
    assert not linear(64, 64, zero=True).weight.any() and linear(4, 4).bias is None
