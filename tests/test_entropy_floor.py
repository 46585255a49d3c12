"""Random tokens cannot be predicted: a loss below ln V on them would be a leak of the label.

Every expert and the mixture train for 300 steps, each on windows of its own that are never seen again, with all that
their objective has; then no loss of the last 50 steps, in the mean, lies below the entropy: neither on the windows
that are trained on nor on fresh ones.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nano_think.experts import EXPERTS, build_expert, diffuser, transformer
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models import think
from nano_think.models.chat import Chat
from nano_think.models.think import NanoThink
from nano_think.nn.documents import number_documents
from nano_think.training.objectives.chat import ChatObjective, Marks
from nano_think.training.objectives.router import RouterObjective
from tests.tiny import ROUTERS, VARIANTS, WIDTH, tiny_config, tiny_expert, tiny_router

# The last id is the start token, which is never drawn: the bias gives it nothing.
V, B, T = 8, 8, 24
LAST = 50
# A leak is learned within some tens of steps; the slow runs are for what takes longer.
STEPS = [80, pytest.param(300, marks=pytest.mark.slow)]
FLOOR = math.log(V) - 0.01


class Losses(NamedTuple):
    """Mean next-token loss of the last 50 steps (nats): on the windows of a step before it is taken, on fresh ones."""

    training: float
    fresh: float


def uniform_head() -> LanguageHead:
    bias_V = torch.full((V + 1,), -math.log(V))
    bias_V[V] = -30.0
    return LanguageHead(normalise_table(torch.randn(V + 1, WIDTH)), bias_V)


def train(
    module: nn.Module, objective: Callable[[Tensor], Tensor], next_token: Callable[[Tensor], Tensor], steps: int
) -> Losses:
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    windows, fresh = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    found = []
    for step in range(steps):
        tokens_BT1 = torch.randint(0, V, (B, T + 1), generator=windows)
        if step >= steps - LAST:
            with torch.no_grad():
                others_BT1 = torch.randint(0, V, (4 * B, T + 1), generator=fresh)
                found.append([float(next_token(tokens)) for tokens in (tokens_BT1, others_BT1)])
        optimizer.zero_grad()
        objective(tokens_BT1).backward()
        optimizer.step()
    return Losses(*torch.tensor(found).mean(0).tolist())


def train_expert(name: str, steps: int) -> Losses:
    """The diffuser trains with blocks, noise and gaps, and is asked in query mode."""
    torch.manual_seed(0)
    expert, head = build_expert(name.split()[0], tiny_config(name, next_token_share=0.5), WIDTH), uniform_head()

    def next_token(tokens_BT1: Tensor) -> Tensor:
        hidden_BTD = expert(head.embed(tokens_BT1[:, :-1]), number_documents(tokens_BT1[:, :-1], V))
        return head.nll(hidden_BTD, tokens_BT1[:, 1:]).mean()

    return train(expert, lambda t: torch.stack(list(expert.losses(t, V, head).values())).sum(), next_token, steps)


def train_mixture(kind: str, steps: int) -> Losses:
    torch.manual_seed(0)
    experts = {name: tiny_expert(name, seed, n_layers=1) for seed, name in enumerate(EXPERTS)}
    router = tiny_router(kind)
    model = NanoThink(uniform_head(), experts, router, V)
    objective = RouterObjective(model, expert_dropout=0.1, entropy=0.01)

    def next_token(tokens_BT1: Tensor) -> Tensor:
        return model.nll(model(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]).mean()

    return train(model, lambda t: objective(t, 1.0)["next_token"], next_token, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", VARIANTS)
def test_expert_stays_above_the_floor(name: str, steps: int):
    losses = train_expert(name, steps)
    assert min(losses) >= FLOOR and max(losses) < math.log(V) + 0.3, losses


def train_chat(steps: int) -> Losses:
    """The start token opens the assistant's message too: all that is drawn is said by it."""
    torch.manual_seed(0)
    model = Chat(uniform_head(), build_expert("transformer", tiny_config("transformer"), WIDTH), V)  # type: ignore

    def next_token(tokens_BT1: Tensor) -> Tensor:
        return model.nll(model(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]).mean()

    return train(model, lambda t: ChatObjective(model, Marks(V, V, V))(t, 1.0)["assistant"], next_token, steps)


@pytest.mark.parametrize("steps", STEPS)
def test_chat_model_stays_above_the_floor(steps: int):
    losses = train_chat(steps)
    assert min(losses) >= FLOOR and max(losses) < math.log(V) + 0.3, losses


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", ROUTERS)
def test_mixture_stays_above_the_floor(kind: str, steps: int):
    losses = train_mixture(kind, steps)
    assert min(losses) >= FLOOR and max(losses) < math.log(V) + 0.3, losses


def everything(documents_BT: Tensor) -> Tensor:
    return torch.ones(1, 1, *documents_BT.shape[1:] * 2, dtype=torch.bool)


def own_token(*places: Tensor) -> tuple[Tensor, Tensor]:
    """Queries that see the clean row of the token they stand for."""
    clean, noisy_ = ORIGINAL(*places)
    return clean, noisy_ | torch.cat([noisy_[..., :1], noisy_[..., : T - 1], noisy_[..., T:]], dim=-1)


ORIGINAL = diffuser.doubled_masks
SLOW = pytest.mark.slow
LEAKS = [
    pytest.param(transformer, "causal_mask", everything, lambda: train_expert("transformer", 80), id="transformer"),
    pytest.param(diffuser, "doubled_masks", own_token, lambda: train_expert("diffuser", 80), id="diffuser's queries"),
    pytest.param(
        diffuser, "causal_mask", everything, lambda: train_expert("diffuser", 300), id="diffuser's clean", marks=SLOW
    ),
    pytest.param(transformer, "causal_mask", everything, lambda: train_chat(80), id="chat model"),
    pytest.param(think, "causal_mask", everything, lambda: train_mixture("token", 300), id="router", marks=SLOW),
]


@pytest.mark.parametrize(("owner", "name", "spoiled", "run"), LEAKS)
def test_floor_notices_a_leak(owner, name: str, spoiled, run: Callable[[], Losses], monkeypatch: pytest.MonkeyPatch):
    """Take a mask away, and the label is learned; the floor is what notices."""
    monkeypatch.setattr(owner, name, spoiled)
    assert max(run()) < FLOOR
