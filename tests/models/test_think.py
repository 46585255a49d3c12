"""The mixture and the embedder as modules."""

import pytest
import torch

from nano_think.experts import EXPERTS
from nano_think.heads.language import normalise_table
from nano_think.models.embedder import Embedder, EmbedderConfig
from nano_think.nn.documents import number_documents
from tests.perturbation import randomise_zeros
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_mixture


def test_shapes_and_names():
    model = tiny_mixture()
    routed = model(draw_tokens(2, 9))
    K = len(EXPERTS)
    assert model.names == list(EXPERTS)
    assert [tuple(part.shape) for part in routed] == [(2, 9, WIDTH), (2, 9, K), (2, 9, K, WIDTH)]


@pytest.mark.parametrize("name", EXPERTS)
def test_streams_are_the_experts_alone(name: str):
    """In the mixture an expert is bit for bit what it is by itself, in training mode too."""
    model, tokens_BT = tiny_mixture(dropout=0.5).train(), draw_tokens(2, 14, starts=(0, 5))
    with torch.no_grad():
        alone = model.experts[name](model.head.embed(tokens_BT), number_documents(tokens_BT, START))
        assert torch.equal(model(tokens_BT).streams[:, :, model.names.index(name)], alone)


def test_only_the_router_learns():
    model = tiny_mixture().train()
    learns = {path.split(".")[0] for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == {"router"} and model.router.training and not model.experts.training
    assert not model(draw_tokens(1, 5)).streams.requires_grad


def test_untrained_router_is_the_mean_of_the_experts():
    routed = tiny_mixture(randomised=False)(draw_tokens(2, 9))
    torch.testing.assert_close(routed.hidden, routed.streams.mean(2), atol=1e-6, rtol=1e-5)


def test_dropped_expert_has_no_say():
    model, tokens_BT = tiny_mixture("static"), draw_tokens(1, 9)
    dropped_BK = torch.zeros(1, len(EXPERTS), dtype=torch.bool)
    dropped_BK[0, 1] = True
    with torch.no_grad():
        before = model(tokens_BT, dropped_BK).hidden
        next(iter(list(model.experts.values())[1].out.parameters())).mul_(3.0)
        assert torch.equal(model(tokens_BT, dropped_BK).hidden, before)
        assert not torch.equal(model(tokens_BT).hidden, before)


def make_embedder() -> Embedder:
    torch.manual_seed(0)
    bias_V = torch.randn(VOCABULARY).log_softmax(0)
    return Embedder(EmbedderConfig(n_layers=1, n_heads=2, inner=16), WIDTH, bias_V)


def test_embedder_freezes_what_it_trained():
    """The head it leaves is the normalised table that its loss was computed with."""
    embedder, tokens_BT1 = make_embedder(), draw_tokens(2, 9)
    assert torch.equal(embedder.head().table, normalise_table(embedder.table))
    unigram = -embedder.bias[tokens_BT1[:, 1:]].mean()
    torch.testing.assert_close(embedder.losses(tokens_BT1, START)["next_token"], unigram)


def test_every_parameter_of_the_embedder_gets_a_finite_gradient():
    embedder = randomise_zeros(make_embedder())
    embedder.losses(draw_tokens(2, 12, starts=(0, 6)), START)["next_token"].backward()
    for path, parameter in embedder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), path
