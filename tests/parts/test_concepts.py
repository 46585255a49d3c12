"""What the text to come is about."""

import torch

from nano_think.nn.hypercube import concept_of, pack_bits
from nano_think.parts import Lesson
from nano_think.parts.concepts import BITS, CONCEPTS, Concepts
from tests.tiny import START, draw_tokens, tiny_chat, tiny_part


def concepts(**more) -> Concepts:
    part = tiny_part("concepts", **more)
    assert isinstance(part, Concepts)
    return part


def lesson_of(windows: torch.Tensor) -> Lesson:
    model = tiny_chat()
    documents_BT = (windows[:, :-1] == START).cumsum(1)
    every_BT, hidden_BTD = windows[:, 1:] != START, torch.zeros(*documents_BT.shape, model.head.width)
    return Lesson(windows, documents_BT, every_BT, every_BT, model.head, hidden_BTD, hidden_BTD, model.write)


def test_a_concept_is_of_the_tokens_ahead_alone():
    """What a place is told depends on the next tokens up to the horizon, and on none behind the document's end."""
    part, windows = concepts(horizon=4), draw_tokens(3, 21, starts=(0, 12))
    whole = part.targets(lesson_of(windows))[0]
    for changed, may_move in ((6, range(2, 6)), (13, range(12, 13)), (12, range(0))):
        other = windows.clone()
        other[:, changed] = (other[:, changed] + 1) % 40 if changed != 12 else START
        moved = (part.targets(lesson_of(other))[0] != whole).any(-1).any(0)
        assert set(moved.nonzero().flatten().tolist()) <= set(may_move)


def test_shifted_targets_are_those_of_another_place():
    windows = draw_tokens(3, 21)
    here, there = (concepts(targets=name).targets(lesson_of(windows))[0] for name in ("next", "shifted"))
    assert torch.equal(there, here.roll(10, dims=1))


@torch.no_grad()
def test_probabilities_of_all_concepts_sum_to_one():
    """And the likeliest vertex of the groups is, up to its neighbour's share, the likeliest concept."""
    model = tiny_chat(parts=["concepts"])
    part, hidden_ND = model.parts["concepts"], torch.randn(2, 16)
    assert isinstance(part, Concepts)
    log_p = part.log_p(hidden_ND)
    assert log_p.shape == (2, CONCEPTS)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2), atol=1e-4, rtol=0)
    assert (log_p.exp().amax(-1) >= part.judge(hidden_ND)["concept_certainty"] - 1e-6).all()


def test_words_are_the_bits_of_their_groups():
    signs = torch.randint(0, 2, (50, BITS)) * 2.0 - 1
    words = Concepts.words(signs)
    vertex = (words << torch.arange(0, BITS, 4)).sum(-1)
    assert torch.equal(vertex, pack_bits(signs)) and (concept_of(vertex, BITS, CONCEPTS) < CONCEPTS).all()


def test_it_learns_the_concepts_of_a_text_that_repeats():
    """The loss falls on windows that are always the same."""
    torch.manual_seed(0)
    model, windows = tiny_chat(parts=["concepts"], weight=1.0), draw_tokens(2, 21)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = model.learn(windows, windows[:, 1:] != START)[1]["concepts.next"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
