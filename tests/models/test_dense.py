"""The dense control has the parameters and the training FLOPs that the mixture has."""

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nano_think.core.errors import UsageError
from nano_think.data.loader import Windows
from nano_think.experts import EXPERTS, build_expert, count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.dense import KIND, match_parameters, match_tokens
from nano_think.models.think import Router, RouterConfig
from nano_think.stages.pipeline import load, presets
from nano_think.training.flops import count_flops
from nano_think.training.objectives.expert import ExpertObjective
from tests.tiny import START, tiny_head
from tests.tiny import WIDTH as TINY

WITHIN = 0.02


def size_of(config: TransformerConfig, width: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_expert(KIND, config, width))


def draw_mixture(dice: random.Random) -> tuple[int, int, TransformerConfig]:
    """Width, parameters of experts and router, and the transformer among them."""
    n_heads = dice.choice([1, 2, 4])
    width = n_heads * dice.choice([8, 16, 32])
    base = TransformerConfig(n_layers=dice.randint(1, 6), n_heads=n_heads, inner=dice.randint(1, 60) * 8)
    others = [
        EXPERTS["diffuser"].Config(n_layers=dice.randint(1, 5), n_heads=n_heads, inner=dice.randint(1, 40) * 8),
        EXPERTS["state_space"].Config(n_layers=dice.randint(1, 5), inner=dice.randint(1, 20) * 32),
    ]
    with torch.device("meta"):
        parts = [build_expert(KIND, base, width)]
        parts += [build_expert(name, one, width) for name, one in zip(("diffuser", "state_space"), others, strict=True)]
        router = Router(RouterConfig(n_heads=n_heads, latent=8, rotated=4), width, 3)
    return width, sum(count_parameters(part) for part in (*parts, router)), base


@pytest.mark.parametrize("seed", range(40))
def test_parameters_are_equal_for_any_mixture(seed: int):
    width, wanted, base = draw_mixture(random.Random(seed))
    found = match_parameters(wanted, width, base)
    assert size_of(found, width) == pytest.approx(wanted, rel=WITHIN)
    assert (found.n_heads, found.rope_base, found.dropout) == (base.n_heads, base.rope_base, base.dropout)


@pytest.mark.parametrize("name", presets())
def test_it_grows_in_depth_and_in_width(name: str):
    """A stack of a hundred narrow layers, or two vast ones, would be no opponent."""
    config = load(name)
    base, width = config.experts.transformer, config.space.width
    found = match_parameters(3 * size_of(base, width), width, base)
    assert 1 <= found.n_layers / base.n_layers <= 3
    assert 1 <= found.inner / base.inner <= 3


def test_its_own_size_is_itself():
    base = TransformerConfig(n_layers=4, n_heads=2, inner=384)
    assert match_parameters(size_of(base, 128), 128, base) == base


def test_a_mixture_that_is_too_small_is_named():
    with pytest.raises(UsageError, match="choose --controls none"):
        match_parameters(100, 64, TransformerConfig())


@pytest.mark.parametrize("seed", range(4))
def test_flops_are_equal_in_whole_steps(seed: int):
    """Counted on the trainings themselves: what experts of random shape cost, and what the control's tokens cost."""
    dice, accelerator = random.Random(seed), Accelerator(cpu=True)
    windows = Windows(np.random.default_rng(seed).integers(0, START, 400), 12, 2, seed=1)
    layers, inner = dice.randint(1, 3), 8 * dice.randint(1, 6)
    config = TransformerConfig(n_layers=layers, n_heads=2, inner=inner)
    experts = [
        build_expert("diffuser", EXPERTS["diffuser"].Config(n_layers=layers, n_heads=2, inner=inner, code=8), TINY),
        build_expert(KIND, config, TINY),
    ]
    flops = sum(3000 * count_flops(ExpertObjective(one, tiny_head(), START), windows, accelerator) for one in experts)
    shape = match_parameters(sum(map(count_parameters, experts)), TINY, config)
    dense = ExpertObjective(build_expert(KIND, shape, TINY), tiny_head(), START)
    per_token = count_flops(dense, windows, accelerator)
    tokens = match_tokens(flops, per_token, 2 * 12)
    assert tokens % 24 == 0 and tokens * per_token == pytest.approx(flops, rel=WITHIN)


def test_there_is_always_a_step():
    assert match_tokens(1.0, 1e9, 512) == 512
