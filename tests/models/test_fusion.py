"""A sum of experts: one distribution out of K, and what of it a router learns from."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.fusion import mixed_logits, mixed_nll, nll_of_each
from nano_think.training.objectives.router import RouterObjective
from tests.tiny import START, VOCABULARY, draw_tokens, tiny_mixture

B, T, D, K, V = 2, 7, 8, 3, 40


def case() -> tuple[LanguageHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = LanguageHead(normalise_table(torch.randn(V, D)), torch.randn(V).log_softmax(0))
    return head, torch.randn(B, T, K).softmax(-1), 3 * torch.randn(B, T, K, D), torch.randint(0, V, (B, T))


def mixed_plainly(head: LanguageHead, weights_BTK: torch.Tensor, streams_BTKD: torch.Tensor) -> torch.Tensor:
    """The equation: sum_k w_k softmax(logits(h_k)), (B, T, V)."""
    return (weights_BTK[..., None] * head.logits(streams_BTKD).softmax(-1)).sum(2)


def test_logits_and_nll_are_those_of_the_sum_of_distributions():
    head, weights, streams, targets = case()
    p_BTV = mixed_plainly(head, weights, streams)
    torch.testing.assert_close(mixed_logits(head, weights, streams).softmax(-1), p_BTV)
    nll_BT = mixed_nll(weights, nll_of_each(head, streams, targets))
    torch.testing.assert_close(nll_BT, -p_BTV.gather(2, targets[..., None])[..., 0].log())


def test_gradient_of_the_weights_is_that_of_the_sum():
    head, weights, streams, targets = case()
    weights.requires_grad_()
    plain = -mixed_plainly(head, weights, streams).gather(2, targets[..., None]).log().sum()
    (wanted,) = torch.autograd.grad(plain, weights)
    (got,) = torch.autograd.grad(mixed_nll(weights, nll_of_each(head, streams, targets)).sum(), weights)
    torch.testing.assert_close(got, wanted)


def test_an_expert_of_weight_zero_has_no_say_and_breaks_no_gradient():
    """Not even where it is right and the others are so wrong that their probability rounds to 0."""
    weights = torch.tensor([[[0.5, 0.5, 0.0]]], requires_grad=True)
    nll = mixed_nll(weights, torch.tensor([[[300.0, 301.0, 0.1]]]))
    nll.sum().backward()
    wanted = 300 - torch.log(torch.tensor(0.5 + 0.5 * 2.718281828**-1))
    torch.testing.assert_close(nll[0, 0], wanted)
    assert weights.grad is not None and weights.grad.isfinite().all() and weights.grad[0, 0, 2] == 0


def test_fused_distribution_is_one_and_that_of_the_model():
    model, tokens = tiny_mixture("expert probability"), draw_tokens(2, 9)
    with torch.no_grad():
        routed = model(tokens)
        p_BTV = model.logits(routed).exp()
        torch.testing.assert_close(p_BTV.sum(-1), torch.ones(2, 9))
        torch.testing.assert_close(p_BTV, mixed_plainly(model.head, routed.weights, routed.streams))
        torch.testing.assert_close(model.logits(routed.last()), model.logits(routed)[:, -1:])


def test_a_sum_of_experts_has_no_scale():
    names = [name for name, _ in tiny_mixture("expert probability").named_parameters()]
    assert "router.blend.scale" not in names and "router.blend.bias" in names


@pytest.mark.parametrize("router", ["expert", "expert probability"])
def test_loss_makes_nothing_as_large_as_all_logits(router: str, monkeypatch: pytest.MonkeyPatch):
    """The largest tensor of a step is far below (B, T, V) numbers, and the weights still learn."""
    monkeypatch.setattr("nano_think.heads.language.GROUP", 4 * VOCABULARY)
    monkeypatch.setattr("nano_think.heads.language.BLOCK", 4 * VOCABULARY)
    model, B, T = tiny_mixture(router), 16, 64
    objective, sizes = RouterObjective(model, 0.0, 0.0), []
    tokens_BT1 = draw_tokens(B, T + 1)
    streams_BTKD, *_ = objective.read_experts(tokens_BT1)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in tree_leaves(out) if isinstance(one, torch.Tensor))
            return out

    routed, targets_BT = model(tokens_BT1[:, :-1], None, streams_BTKD), tokens_BT1[:, 1:]
    with Watch():
        nll_BTK = [nll_of_each(model.head, streams_BTKD, targets_BT)] if router != "expert" else []
        loss = objective._next_token(routed.weights, streams_BTKD, nll_BTK, targets_BT, targets_BT != START)
    loss.backward()
    assert max(sizes) <= streams_BTKD.numel() < B * T * VOCABULARY
    assert model.router.blend.bias.grad is not None and model.router.blend.bias.grad.any()
