"""Which optimiser a parameter belongs to, and the rate as a function of the step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nano_think.experts import EXPERTS, build_expert
from nano_think.models.embedder import Embedder, EmbedderConfig
from nano_think.training.objectives.embedding import EmbedderObjective
from nano_think.training.objectives.expert import ExpertObjective
from nano_think.training.objectives.router import RouterObjective
from nano_think.training.optim import OptimConfig, build_optimizers, rate_at, set_rate
from tests.tiny import START, VOCABULARY, WIDTH, few, tiny_config, tiny_head, tiny_mixture


def objective_of(name: str) -> nn.Module:
    if name == "embedding":
        config = EmbedderConfig(n_layers=1, n_heads=2, inner=16)
        return EmbedderObjective(Embedder(config, WIDTH, torch.zeros(VOCABULARY)), START)
    if name == "router":
        return RouterObjective(tiny_mixture(), 0.1, 0.01)
    return ExpertObjective(build_expert(name, tiny_config(name), WIDTH), tiny_head(), START)


@pytest.mark.parametrize("name", [*EXPERTS, "embedding", "router"])
def test_every_parameter_that_learns_is_in_one_group(name: str):
    objective = objective_of(name)
    optimizers = build_optimizers(objective, OptimConfig())
    owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in objective.parameters() if p.requires_grad)
    muon = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
    assert isinstance(optimizers[0], torch.optim.Muon)
    assert muon == {id(m.weight) for m in objective.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}


def test_token_table_has_its_own_rate():
    objective = objective_of("embedding")
    groups = [group for optimizer in build_optimizers(objective, OptimConfig()) for group in optimizer.param_groups]
    (table,) = [group for group in groups if any(p is objective.embedder.table for p in group["params"])]
    assert len(table["params"]) == 1 and table["lr"] == OptimConfig().table_rate
    assert {group["lr"] for group in groups} == {0.01, 0.005, 0.03}


def test_rate_multiplies_the_peak_of_every_group():
    optimizers = build_optimizers(objective_of("embedding"), OptimConfig())
    for share in (0.5, 0.25):
        set_rate(optimizers, share)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert sorted(group["lr"] for group in groups) == pytest.approx([0.00125, 0.0025, 0.0075])


def test_rate_rises_stays_and_falls():
    config = OptimConfig(warmup=0.1, decay=0.4)
    rates = [rate_at(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10:61] == [1.0] * 51
    assert rates[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])


@few(50)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 1), rest=st.floats(0, 1))
def test_rate_is_never_nothing_and_never_above_the_peak(steps: int, warmup: float, rest: float):
    config = OptimConfig(warmup=warmup, decay=max(0.0, 1 - warmup) * rest)
    rates = [rate_at(step, steps, config) for step in range(steps)]
    top = rates.index(max(rates))
    assert min(rates) > 0 and max(rates) <= 1
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 0.7, "decay": 0.6}, "warmup . decay"),
        ({"warmup": -0.1}, "warmup"),
        ({"matrix_rate": float("nan")}, "rate"),
    ],
)
def test_impossible_schedules_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)
