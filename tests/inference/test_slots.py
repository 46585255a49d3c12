"""Which tokens a prediction depends on, and that each of them is read once."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.inference import slots
from nano_think.inference.slots import Slots, context_start
from nano_think.models.chat import Model, remembers
from nano_think.models.think import Routed
from tests.tiny import MODELS, START, draw_tokens, few, tiny_mixture, tiny_model


@few(60)
@given(length=st.integers(1, 400), window=st.integers(2, 70))
def test_context_is_from_half_a_window_to_a_whole_one(length: int, window: int):
    """All of a text that fits; else more than half a window, and it begins anew once per half window at most."""
    first = context_start(length, window)
    assert first == 0 if length <= window else window // 2 < length - first <= window
    assert context_start(length + 1, window) - first in (0, window - window // 2)


def watch(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """How many tokens each reading takes, and of how many rows each step is."""
    seen, extend, advance = [], model.extend, model.advance
    monkeypatch.setattr(model, "extend", lambda t, cache: seen.append(t.shape[1]) or extend(t, cache))
    monkeypatch.setattr(model, "advance", lambda t, *more: seen.append(f"step of {len(t)}") or advance(t, *more))
    return seen


def test_each_token_is_read_once_until_the_window_is_full(monkeypatch: pytest.MonkeyPatch):
    model = tiny_mixture()
    seen, reader = watch(model, monkeypatch), Slots(model, window=6, count=1)
    for length in range(3, 12):
        reader.predict({0: list(range(length))})
    one = "step of 1"
    assert seen == [3, one, one, one, 4, one, one, 4, one]


def test_texts_that_go_on_are_read_in_one_step(monkeypatch: pytest.MonkeyPatch):
    model = tiny_mixture()
    seen, reader = watch(model, monkeypatch), Slots(model, window=20, count=4)
    texts = {0: [START, 1], 2: [START, 1, 2, 3]}
    reader.predict(texts)
    reader.predict({**{slot: [*text, 5] for slot, text in texts.items()}, 3: [START]})
    assert seen == [2, 4, 1, "step of 2"]


@torch.no_grad()
def test_a_long_text_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch):
    model, tokens = tiny_mixture(), [START, *range(40)]
    monkeypatch.setattr(slots, "PIECE", 7)
    got = Slots(model, window=64, count=1).predict({0: tokens}).last
    torch.testing.assert_close(got.hidden, model(torch.tensor([tokens])).hidden[:, -1:], atol=1e-4, rtol=1e-5)


def texts_over_time(n: int, steps: int) -> list[dict[int, list[int]]]:
    """Texts of `n` slots over some steps: each begins at its own time with its own length, and some begin anew."""
    drawn = torch.Generator().manual_seed(n)
    token = lambda: int(torch.randint(0, START + 1, (), generator=drawn))  # noqa: E731
    texts: dict[int, list[int]] = {}
    times = []
    for step in range(steps):
        for slot in range(n):
            if step % (3 * slot + 7) == slot:
                texts[slot] = [START, *(token() for _ in range(1 + (5 * slot + step) % 11))]
            elif slot in texts:
                texts[slot] = [*texts[slot], START if (step + slot) % 6 == 0 else token()]
        times.append(dict(texts))
    return [one for one in times if one]


@torch.no_grad()
def follow(model: Model, times: list[dict[int, list[int]]], window: int, count: int) -> list[Routed]:
    """Everything that `Slots` answers; a slot that begins anew has left before."""
    reader, before, answers = Slots(model, window, count), {}, []
    for texts in times:
        for slot, text in texts.items():
            if text[:-1] != before.get(slot):
                reader.leave(slot)
        answers.append(reader.predict(texts).last)
        before = texts
    return answers


def answer_to(model: Model, tokens: list[int], first: int) -> Routed:
    """The model's answer to a context, with all that it keeps of the document before."""
    if not remembers(model):
        return model(torch.tensor([tokens[first:]]))
    starts = [place for place in range(first + 1) if tokens[place] == START]
    cache, earlier = model.start(1, len(tokens) - first), tokens[starts[-1] : first]
    model.carry(cache, model.fold(torch.tensor(earlier), {}) if earlier else {})
    return model.extend(torch.tensor([tokens[first:]]), cache)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_texts_that_join_and_leave_are_what_each_is_alone(name: str):
    """Hidden, weights and streams of every text are the model's answer to its context, without cache or company."""
    model, window = tiny_model(name), 13
    times = texts_over_time(4, 22)
    for texts, got in zip(times, follow(model, times, window, 4), strict=True):
        for row, tokens in enumerate(texts.values()):
            alone = answer_to(model, tokens, context_start(len(tokens), window)).last()
            for mine, wanted in zip(got, alone, strict=True):
                torch.testing.assert_close(mine[row : row + 1], wanted, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_bits_of_a_row_do_not_depend_on_the_others():
    """With the kernels, whose sums have one order: the same text alone and in company, token by token."""
    model, times = tiny_mixture(), texts_over_time(4, 22)
    together = follow(model, times, 13, 4)
    for slot in range(4):
        alone = follow(model, [{0: texts[slot]} for texts in times if slot in texts], 13, 1)
        rows = [list(texts).index(slot) for texts in times if slot in texts]
        shared = [got for got, texts in zip(together, times, strict=True) if slot in texts]
        for got, row, wanted in zip(shared, rows, alone, strict=True):
            assert torch.equal(model.logits_of_rows(got)[row], model.logits_of_rows(wanted)[0])


@pytest.mark.parametrize("name", ["hidden", "streams"])
def test_a_slot_that_is_taken_again_holds_nothing_of_before(name: str):
    model = tiny_mixture("mean")
    one, other = Slots(model, 20, 2), Slots(model, 20, 2)
    for length in range(2, 9):
        one.predict({0: [START, *itertools.repeat(7, length)], 1: [START, *range(length)]})
    one.leave(0)
    for length in range(2, 9):
        got, wanted = (reader.predict({0: [START, *range(20, 20 + length)]}).last for reader in (one, other))
        assert torch.equal(getattr(got, name), getattr(wanted, name))


@torch.no_grad()
@pytest.mark.parametrize("stay", [1, 3, 6])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_that_are_taken_back_were_never_there(name: str, stay: int):
    """Behind any of the tokens that were tried, and then after those that stay, the model is that of no cache."""
    model, text, window = tiny_model(name), [START, 1, 2, START, 3, 4], 40
    reader = Slots(model, window, count=1)
    reader.predict({0: text[:-1]})
    for seed in range(3):
        tried = [text[-1], *draw_tokens(1, 5, starts=(2,), seed=seed)[0].tolist()]
        assert reader.room(0, text) == window - len(text)
        got = reader.try_on(0, tried).last
        for mine, whole in zip(got, model(torch.tensor([text[:-1] + tried])), strict=True):
            torch.testing.assert_close(mine[:, 0], whole[0, len(text) - 1 :], atol=1e-4, rtol=1e-5)
        reader.settle(0, tried, stay)
        text += [*tried[1:stay], 5, 6]
        torch.testing.assert_close(
            reader.predict({0: text[:-1]}).last.hidden,
            model(torch.tensor([text[:-1]])).last().hidden, atol=1e-4, rtol=1e-5,
        )  # fmt: skip


@torch.no_grad()
def test_nothing_is_tried_where_a_text_must_be_read_anew():
    model, text = tiny_mixture(), [START, 1, 2, 3]
    reader = Slots(model, window=6, count=1)
    assert reader.room(0, text) == 0
    reader.predict({0: text})
    assert [reader.room(0, [*text, *range(n)]) for n in (1, 2)] == [1, 0]
    reader.predict({0: [*text, 4]})
    assert reader.room(0, [*text, 4, 5]) == 0
