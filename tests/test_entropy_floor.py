"""Random tokens cannot be predicted: a training loss below ln V would be a leak of the label.

Fresh windows at every step, so that nothing can be learned by heart.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nano_think.experts import EXPERTS, build_expert, transformer
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.think import NanoThink, Router, RouterConfig
from nano_think.training.objectives.router import RouterObjective
from tests.tiny import VARIANTS, WIDTH, tiny_config

# The last id is the start token, which is never drawn: the bias gives it nothing.
V, STEPS, B, T = 8, 60, 16, 24


def uniform_head() -> LanguageHead:
    bias_V = torch.full((V + 1,), -math.log(V))
    bias_V[V] = -30.0
    return LanguageHead(normalise_table(torch.randn(V + 1, WIDTH)), bias_V)


def smallest_mean_loss(parameters: list[nn.Parameter], loss: Callable[[Tensor], Tensor]) -> float:
    """Train on fresh random windows; the least mean over 20 steps in a row."""
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        value = loss(torch.randint(0, V, (B, T + 1), generator=generator))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return min(sum(losses[i : i + 20]) / 20 for i in range(STEPS - 19))


def train_expert(name: str) -> float:
    """Query losses alone for the diffuser: a noisy row is told its token on purpose."""
    torch.manual_seed(0)
    config, head = tiny_config(name, n_layers=1, query_share=1.0), uniform_head()
    expert = build_expert(name.split()[0], config, WIDTH)
    return smallest_mean_loss(list(expert.parameters()), lambda t: sum(expert.losses(t, V, head).values()))


@pytest.mark.parametrize("name", VARIANTS)
def test_expert_stays_above_the_floor(name: str):
    assert math.log(V) - 0.03 < train_expert(name) < math.log(V) + 0.2


def test_mixture_stays_above_the_floor():
    torch.manual_seed(0)
    experts = {name: EXPERTS[name](tiny_config(name, n_layers=1), WIDTH) for name in EXPERTS}
    for expert in experts.values():
        nn.init.normal_(expert.out.weight, std=0.05)
    router = Router(RouterConfig(kind="expert", n_heads=2, latent=8, rotated=4), WIDTH, len(experts))
    objective = RouterObjective(NanoThink(uniform_head(), experts, router, V), expert_dropout=0.1, entropy=0.0)
    least = smallest_mean_loss(list(router.parameters()), lambda t: objective(t, 1.0)["next_token"])
    assert math.log(V) - 0.03 < least


def test_floor_test_notices_a_leak(monkeypatch: pytest.MonkeyPatch):
    """Without its mask the transformer learns to copy the label, and falls through the floor."""
    monkeypatch.setattr(transformer, "causal_mask", lambda documents_BT: torch.ones(1, 1, T, T, dtype=torch.bool))
    assert train_expert("transformer") < math.log(V) - 0.1
