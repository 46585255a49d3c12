"""Mixing what a memory says into what the model says."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nano_think.memory.read import (
    GATES,
    Gate,
    Neighbours,
    earlier_in_document,
    fit_gate,
    mix_distribution,
    mix_logits,
    mix_logits_plainly,
    mixed_nll,
    to_key,
)
from tests.tiny import few

NONE = -math.inf


def neighbours(*rows: list[tuple[float, int]]) -> Neighbours:
    similarity = torch.tensor([[s for s, _ in row] for row in rows])
    return Neighbours(similarity=similarity, value=torch.tensor([[v for _, v in row] for row in rows]))


def test_memory_is_the_softmax_over_similarities():
    found = neighbours([(1.0, 4), (0.5, 7), (0.5, 4)])
    weights = [math.exp(2.0), math.exp(1.0), math.exp(1.0)]
    four = (weights[0] + weights[2]) / sum(weights)
    assert found.probability(torch.tensor([4]), 2.0).item() == pytest.approx(four)
    assert found.probability(torch.tensor([3]), 2.0).item() == 0
    nll = mixed_nll(torch.tensor([1.0]), torch.tensor([4]), found, Gate(share=0.3, sharpness=2.0))
    assert nll.item() == pytest.approx(-math.log(0.7 * math.exp(-1.0) + 0.3 * four))


def test_missing_neighbours_weigh_nothing():
    """Where fewer are found the rest shares all the weight, and value -1 is no token."""
    found = neighbours([(0.9, 2), (NONE, -1)], [(NONE, -1), (NONE, -1)])
    assert found.found.tolist() == [True, False]
    assert found.probability(torch.tensor([2, 2]), 5.0).tolist() == [1.0, 0.0]


def test_a_share_of_nothing_and_an_empty_memory_are_off_bit_for_bit():
    nll, target = torch.rand(2) * 9, torch.tensor([1, 2])
    nothing = neighbours([(NONE, -1)], [(NONE, -1)])
    assert torch.equal(mixed_nll(nll, target, nothing, Gate(share=0.5)), nll)
    assert torch.equal(mixed_nll(nll, target, neighbours([(1.0, 1)], [(1.0, 1)]), Gate(share=0.0)), nll)
    p_V = torch.rand(5).softmax(0)
    assert torch.equal(mix_distribution(p_V, nothing, Gate(share=0.5)), p_V)
    assert torch.equal(mix_distribution(p_V, neighbours([(1.0, 1)]), Gate(share=0.0)), p_V)


def test_a_very_surprised_model_stays_finite():
    """Beyond 103 nats a probability is 0 in fp32; its logarithm must not be."""
    nll = mixed_nll(
        torch.tensor([150.0, 150.0]), torch.tensor([1, 2]), neighbours([(1.0, 1)], [(1.0, 1)]), Gate(share=0.2)
    )
    assert nll.tolist() == pytest.approx([-math.log(0.2), 150.0 - math.log(0.8)])


@few(30)
@given(
    share=st.floats(0.01, 0.99),
    sharpness=st.floats(0.1, 80.0),
    row=st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 5)), min_size=1, max_size=6),
    missing=st.integers(0, 3),
)
def test_mixed_distribution_sums_to_one_and_is_what_the_loss_uses(share, sharpness, row, missing):
    p_V, gate = torch.rand(6).softmax(0), Gate(share=share, sharpness=sharpness)
    found = neighbours(row + [(NONE, -1)] * missing)
    mixed_V = mix_distribution(p_V, found, gate)
    assert mixed_V.sum().item() == pytest.approx(1.0, abs=1e-5) and (mixed_V >= 0).all()
    every = Neighbours(similarity=found.similarity.expand(6, -1), value=found.value.expand(6, -1))
    torch.testing.assert_close(
        mixed_nll(-p_V.log(), torch.arange(6), every, gate), -mixed_V.log(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("weights", [None, (1.0, 7.0, 2.0)])
@pytest.mark.parametrize("row", [[(0.9, 2), (0.7, 5), (0.2, 2)], [(0.5, 0), (NONE, -1)], [(NONE, -1)]])
def test_mixed_logits_are_the_mixed_distribution(row, weights):
    """As far above and below 0 as the model's own; a value that comes twice counts once, with both weights."""
    logits_V, gate = 3 * torch.randn(6, generator=torch.Generator().manual_seed(1)) + 2, Gate(share=0.3)
    weight_1k = torch.tensor([weights])[:, : len(row)] if weights else None
    found = dataclasses.replace(neighbours(row), weight=weight_1k)
    wanted_V = mix_distribution(logits_V.softmax(0), found, gate).log() + logits_V.logsumexp(0)
    for mix in (mix_logits, mix_logits_plainly):
        torch.testing.assert_close(mix(logits_V, found, gate), wanted_V)


@few(40)
@given(seed=st.integers(0, 10_000), words=st.integers(1, 300), count=st.integers(1, 33), weighed=st.booleans())
def test_mixed_logits_by_the_kernel_are_the_plain_ones(seed: int, words: int, count: int, weighed: bool):
    """Values that come twice, neighbours that are missing, any number of words."""
    generator = torch.Generator().manual_seed(seed)
    value_1k = torch.randint(-1, words, (1, count), generator=generator)
    similarity_1k = torch.where(value_1k >= 0, torch.rand(1, count, generator=generator), NONE)
    weight_1k = torch.randint(1, 9, (1, count), generator=generator).float() if weighed else None
    found = Neighbours(similarity=similarity_1k, value=value_1k, weight=weight_1k)
    logits_V, gate = 5 * torch.randn(words, generator=generator), Gate(share=0.3, sharpness=20.0)
    torch.testing.assert_close(mix_logits(logits_V, found, gate), mix_logits_plainly(logits_V, found, gate))


def one_by_one(query: Tensor, keys: Tensor, values: Tensor, position: int, k: int) -> list[tuple[float, int]]:
    """The plain twin: entries strictly before the position, the most similar first."""
    entries = [(float(query @ keys[j]), int(values[j])) for j in range(position)]
    return sorted(entries, reverse=True)[:k]


@pytest.mark.parametrize("first", [0, 5])
def test_scratch_memory_is_its_plain_twin(first: int):
    keys, values = to_key(torch.randn(12, 6)), torch.randint(0, 50, (12,))
    queries = keys[first : first + 7]
    found = earlier_in_document(queries, keys, values, first, k=4)
    for t in range(7):
        expected = one_by_one(queries[t], keys, values, first + t, 4)
        got = [(s, v) for s, v in zip(found.similarity[t].tolist(), found.value[t].tolist(), strict=True) if v >= 0]
        assert [v for _, v in got] == [v for _, v in expected]
        assert [s for s, _ in got] == pytest.approx([s for s, _ in expected], abs=1e-5)
        assert found.similarity[t, len(expected) :].isinf().all()


def test_first_token_of_a_document_remembers_nothing():
    keys = to_key(torch.randn(3, 4))
    assert earlier_in_document(keys, keys, torch.arange(3), 0, k=16).found.tolist() == [False, True, True]


def test_gate_is_fitted_where_memory_helps_and_off_where_it_harms():
    nll, target = torch.full((50,), 3.0), torch.arange(50) % 5
    right = Neighbours(similarity=torch.ones(50, 1), value=target[:, None])
    wrong = Neighbours(similarity=torch.ones(50, 1), value=target[:, None] + 1)
    assert fit_gate(nll, target, right).share == GATES[-1]
    assert fit_gate(nll, target, wrong).share == 0.0


def test_keys_are_of_length_one_in_fp32():
    key = to_key(torch.randn(4, 8).bfloat16() * 100)
    assert key.dtype == torch.float32
    torch.testing.assert_close(key.norm(dim=1), torch.ones(4))


def test_a_weight_is_as_many_copies():
    """An entry that stands for three counts as three did; without weights not a bit changes."""
    found = Neighbours(
        similarity=torch.tensor([[0.9, 0.2, NONE]]),
        value=torch.tensor([[4, 7, -1]]),
        weight=torch.tensor([[3.0, 1.0, 0.0]]),
    )
    copies = neighbours([(0.9, 4), (0.9, 4), (0.9, 4), (0.2, 7)])
    for token in (4, 7, 5):
        target = torch.tensor([token])
        assert found.probability(target, 5.0).item() == pytest.approx(copies.probability(target, 5.0).item())
    mixed, wanted = (mix_distribution(torch.ones(9) / 9, one, Gate(share=0.5)) for one in (found, copies))
    torch.testing.assert_close(mixed, wanted)


def test_joined_parts_keep_their_weights():
    plain, weighed = (
        neighbours([(0.9, 4)]),
        Neighbours(similarity=torch.tensor([[0.5]]), value=torch.tensor([[3]]), weight=torch.tensor([[2.0]])),
    )
    assert Neighbours.join([plain, plain]).weight is None
    assert Neighbours.join([plain, weighed]).weight.tolist() == [[1.0], [2.0]]
