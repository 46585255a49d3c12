"""Training the router: the experts and the head stay as they are, to the bit."""

import hashlib

import pytest
import torch
from torch import nn

from nano_think.experts import EXPERTS
from nano_think.models.think import Routed
from nano_think.training.objectives.router import RouterObjective
from nano_think.training.optim import OptimConfig, build_optimizers
from tests.tiny import START, draw_tokens, tiny_mixture

K = len(EXPERTS)


def fingerprint(module: nn.Module) -> str:
    content = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def test_experts_and_head_are_frozen():
    """Eval mode, no gradients, no place in an optimiser, and the same bytes after three steps that move the router."""
    model = tiny_mixture(dropout=0.5)
    objective = RouterObjective(model, expert_dropout=0.5, entropy=0.01).train()
    before = (fingerprint(model.experts), fingerprint(model.head), fingerprint(model.router))
    optimizers = build_optimizers(objective, OptimConfig())
    for share in (0.0, 0.1, 0.5):
        sum(objective(draw_tokens(4, 17), share).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert not any(module.training for module in model.experts.modules())
    assert model.router.training and objective.training
    assert all(p.grad is None and not p.requires_grad for p in model.experts.parameters())
    owned = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert not owned & {id(p) for p in model.experts.parameters()}
    after = (fingerprint(model.experts), fingerprint(model.head), fingerprint(model.router))
    assert after[:2] == before[:2] and after[2] != before[2]


def test_every_parameter_of_the_router_gets_a_finite_gradient_with_experts_dropped():
    """The entropy of a weight of exactly 0 has an infinite slope: it must not reach the router."""
    model = tiny_mixture()
    objective = RouterObjective(model, expert_dropout=1.0, entropy=0.01)
    for share in (0.0, 0.1, 0.9):
        objective.zero_grad()
        sum(objective(draw_tokens(4, 17, starts=(0, 7)), share).values()).backward()
        for path, parameter in model.router.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (path, share)
            assert parameter.grad.any(), path


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_at_most_one_expert_is_dropped(chance: float):
    objective = RouterObjective(tiny_mixture("static"), expert_dropout=chance, entropy=0.0)
    dropped_BK = objective._drop(2000, torch.device("cpu"))
    if not chance:
        assert dropped_BK is None
        return
    assert dropped_BK is not None and dropped_BK.sum(1).max() == 1
    assert dropped_BK.any(1).float().mean().item() == pytest.approx(chance, abs=0.05)
    assert dropped_BK.float().mean(0).tolist() == pytest.approx([chance / K] * K, abs=0.05)


def test_the_only_expert_is_never_dropped():
    model = tiny_mixture("static")
    for name in model.names[1:]:
        del model.experts[name]
    assert RouterObjective(model, expert_dropout=1.0, entropy=0.0)._drop(8, torch.device("cpu")) is None


def test_bonus_rewards_even_weights_and_is_gone_after_a_fifth():
    """At the start it is the coefficient times the mean entropy, ln K for equal weights; then it falls to 0."""
    objective = RouterObjective(tiny_mixture(randomised=False), expert_dropout=0.0, entropy=0.02)
    bonus = [objective(draw_tokens(2, 9), share)["entropy"].item() for share in (0.0, 0.1, 0.2, 0.7, 1.0)]
    full = -0.02 * torch.tensor(float(K)).log().item()
    assert bonus == pytest.approx([full, full / 2, 0, 0, 0])
    even = RouterObjective(tiny_mixture(), expert_dropout=0.0, entropy=0.02)
    assert 0 > even(draw_tokens(2, 9), 0.0)["entropy"].item() > full


def test_loss_is_that_of_the_fused_hidden():
    model, tokens_BT1 = tiny_mixture(), draw_tokens(3, 17, starts=(0, 6))
    loss = RouterObjective(model, 0.0, 0.0)(tokens_BT1, 0.0)["next_token"]
    routed = model(tokens_BT1[:, :-1])
    assert isinstance(routed, Routed)
    nll_BT, scored_BT = model.head.nll_plainly(routed.hidden, tokens_BT1[:, 1:]), tokens_BT1[:, 1:] != START
    torch.testing.assert_close(loss, nll_BT[scored_BT].mean())


def test_thawed_experts_learn_with_the_router():
    """And are computed at every step, whatever was kept of them before."""
    model = tiny_mixture()
    objective = RouterObjective(model, expert_dropout=0.0, entropy=0.0).train()
    objective.with_logits, objective.steps_differ = True, True
    objective.forget()
    model.thaw()
    sum(objective(draw_tokens(2, 9), 1.0).values()).backward()
    assert not objective.with_logits and not objective.steps_differ
    assert all(expert.out.weight.grad is not None and expert.out.weight.grad.any() for expert in model.experts.values())
    assert not any(value.requires_grad for value in (model.head.table, model.head.bias))
