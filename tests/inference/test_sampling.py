"""From logits to a token: what may be drawn, and how often."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.inference.sampling import SamplingConfig, distribution, draw
from tests.tiny import few

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


@few(60)
@given(
    logits=LOGITS, temperature=st.floats(0, 5), top_k=st.integers(0, 14), top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)  # fmt: skip
def test_what_is_drawn_from_is_a_distribution_of_the_likeliest(logits, temperature, top_k, top_p, min_p):
    """It sums to 1, keeps the most likely token, and no token that is kept is less likely than one left out."""
    logits_V = torch.tensor(logits)
    p_V = distribution(logits_V, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    assert p_V.sum().item() == pytest.approx(1.0, abs=1e-5) and (p_V >= 0).all() and p_V[logits_V.argmax()] > 0
    kept = p_V > 0
    if not kept.all() and temperature > 0.5:
        assert logits_V[kept].min() >= logits_V[~kept].max()


@few(30)
@given(logits=st.lists(st.integers(-9, 9), min_size=1, max_size=12, unique=True), top_k=st.integers(1, 14))
def test_top_k_keeps_k(logits: list[int], top_k: int):
    p_V = distribution(torch.tensor(logits).float(), SamplingConfig(temperature=1.0, top_k=top_k, top_p=1.0))
    assert int((p_V > 0).sum()) == min(top_k, len(logits))


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.85, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: int):
    p_V = torch.tensor([0.05, 0.5, 0.15, 0.3])
    got = distribution(p_V.log(), SamplingConfig(temperature=1.0, top_k=0, top_p=top_p))
    best = p_V.topk(kept)
    torch.testing.assert_close(got[best.indices], best.values / best.values.sum())
    assert int((got > 0).sum()) == kept


def test_top_p_of_one_keeps_even_the_least_likely():
    logits_V = torch.cat([torch.zeros(300), torch.tensor([-18.0])])
    assert (distribution(logits_V, SamplingConfig(temperature=1.0, top_k=0, top_p=1.0)) > 0).all()


def test_temperature_divides_the_logits_and_none_takes_the_best():
    logits_V = torch.tensor([1.0, 3.0, 2.0])
    free = SamplingConfig(temperature=2.0, top_k=0, top_p=1.0)
    torch.testing.assert_close(distribution(logits_V, free), (logits_V / 2).softmax(0))
    for temperature in (0.0, 1e-30):
        cold = SamplingConfig(temperature=temperature, top_k=0, top_p=1.0)
        assert distribution(logits_V * 1e3, cold).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 4), (0.09, 4), (0.11, 3), (0.31, 2), (0.61, 1), (1.0, 1)])
def test_min_p_keeps_what_is_that_share_as_likely_as_the_best(min_p: float, kept: int):
    p_V = torch.tensor([0.05, 0.5, 0.15, 0.3])
    got = distribution(p_V.log(), SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, min_p=min_p))
    best = p_V.topk(kept)
    torch.testing.assert_close(got[best.indices], best.values / best.values.sum())
    assert int((got > 0).sum()) == kept


def test_a_repetition_penalty_makes_what_was_seen_less_likely():
    logits_V = torch.tensor([2.0, -1.0, 2.0, -1.0])
    free = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=2.0)
    wanted = torch.tensor([2.0, -1.0, 1.0, -2.0]).softmax(0)
    torch.testing.assert_close(distribution(logits_V, free, {2, 3}), wanted)
    torch.testing.assert_close(distribution(logits_V, free), logits_V.softmax(0))


def test_nothing_of_no_probability_is_drawn(monkeypatch: pytest.MonkeyPatch):
    """Not even where the uniform number is as near to 1 as it can be."""
    logits_V, config = torch.tensor([0.0, 0.0, -9.0]), SamplingConfig(temperature=1.0, top_k=0, top_p=0.9)
    for place in (0.0, 0.5, 1 - 2**-53):
        monkeypatch.setattr(torch, "rand", lambda *_, place=place, **__: torch.tensor([place], dtype=torch.float64))
        assert draw(logits_V, config, torch.Generator()) in (0, 1)


def test_draws_follow_the_distribution():
    config, generator = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0), torch.Generator().manual_seed(0)
    p = [0.1, 0.6, 0.3]
    drawn = [draw(torch.tensor(p).log(), config, generator) for _ in range(3000)]
    assert [drawn.count(token) / 3000 for token in range(3)] == pytest.approx(p, abs=0.03)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(values: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingConfig(**values)
