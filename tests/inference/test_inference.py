"""From logits to text: what may be drawn, when it ends, and that no character is torn."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.inference import engine
from nano_think.inference.detokenizer import StreamDecoder
from nano_think.inference.engine import context_start, generate
from nano_think.inference.sampling import SamplingConfig, distribution, draw
from nano_think.models.think import NanoThink
from tests.tiny import START, few, tiny_mixture

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


@few(60)
@given(logits=LOGITS, temperature=st.floats(0, 5), top_k=st.integers(0, 14), top_p=st.floats(0.01, 1))
def test_what_is_drawn_from_is_a_distribution_of_the_likeliest(logits, temperature, top_k, top_p):
    """It sums to 1, keeps the most likely token, and no token that is kept is less likely than one left out."""
    logits_V = torch.tensor(logits)
    p_V = distribution(logits_V, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p))
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
    ],
    ids=str,
)
def test_impossible_settings_are_refused(values: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingConfig(**values)


def text(model: NanoThink, window: int = 8, most: int = 30, **settings) -> list[int]:
    return [step.token for step in generate(model, [START, 3, 4], window, most, SamplingConfig(**settings))]


def test_same_seed_same_text_whatever_else_draws():
    model = never_ending(tiny_mixture())
    first = text(model, seed=1)
    torch.rand(7)
    assert text(model, seed=1) == first and len(first) == 30
    assert text(model, seed=2) != first


def never_ending(model: NanoThink) -> NanoThink:
    """The same model, to which the start token is impossible."""
    model.head.bias[START] = -1e9
    return model


def test_a_new_document_ends_the_text():
    model = tiny_mixture()
    model.head.bias.zero_()[START] = 1e6
    assert text(model) == []


@pytest.mark.parametrize("router", ["expert", "expert probability"])
def test_greedy_text_is_the_best_token_each_time_with_its_weights(router: str):
    """Every step is the model's answer to the whole context, and reports the weights that it was predicted with."""
    model, tokens, window = never_ending(tiny_mixture(router)), [START, 3, 4], 5
    steps = list(generate(model, tokens, window, 9, SamplingConfig(temperature=0.0)))
    for step in steps:
        with torch.no_grad():
            routed = model(torch.tensor([tokens[context_start(len(tokens), window) :]]))
        assert step.token == int(model.logits(routed)[0, -1].argmax())
        assert step.weights == pytest.approx(routed.weights[0, -1].tolist(), abs=1e-6)
        assert sum(step.weights) == pytest.approx(1.0, abs=1e-5)
        tokens.append(step.token)
    assert len(steps) == 9


@few(60)
@given(length=st.integers(1, 400), window=st.integers(2, 70))
def test_context_is_from_half_a_window_to_a_whole_one(length: int, window: int):
    """All of a text that fits; else more than half a window, and it begins anew once per half window at most."""
    first = context_start(length, window)
    assert first == 0 if length <= window else window // 2 < length - first <= window
    assert context_start(length + 1, window) - first in (0, window - window // 2)


def test_each_token_is_read_once_until_the_window_is_full(monkeypatch: pytest.MonkeyPatch):
    model, pieces = never_ending(tiny_mixture()), []
    extend = model.extend
    monkeypatch.setattr(model, "extend", lambda t, cache: pieces.append(t.shape[1]) or extend(t, cache))
    assert len(text(model, window=6, most=9)) == 9
    assert pieces == [3, 1, 1, 1, 4, 1, 1, 4, 1]


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch):
    """However the prompt is cut, the text is the same."""
    model, prompt, sampling = never_ending(tiny_mixture()), [START, *range(40)], SamplingConfig(temperature=0.0)
    whole = [step.token for step in generate(model, prompt, 64, 20, sampling)]
    monkeypatch.setattr(engine, "PIECE", 7)
    assert [step.token for step in generate(model, prompt, 64, 20, sampling)] == whole


def test_text_comes_token_by_token():
    """A reader who stops early does not pay for the rest."""
    stream = generate(never_ending(tiny_mixture()), [START], 8, 10**9, SamplingConfig())
    assert next(stream).token != START
    stream.close()
    assert text(tiny_mixture(), most=0) == []


@few(80)
@given(
    content=st.one_of(st.binary(max_size=40), st.text(max_size=12).map(str.encode)),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_pieces_join_to_the_whole(content: bytes, cuts: list[int]):
    """However the bytes are cut, the text is that of all of them, and no piece is taken back."""
    decoder, places = StreamDecoder(), [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [decoder.feed(content[low:high]) for low, high in itertools.pairwise(places)]
    assert "".join(pieces) + decoder.end() == content.decode("utf-8", errors="replace")


def test_half_a_character_is_held_back():
    decoder = StreamDecoder()
    assert [decoder.feed(bytes([byte])) for byte in "\U0001f600é".encode()] == ["", "", "", "\U0001f600", "", "é"]
    assert decoder.feed("\U0001f600".encode()[:2]) == "" and decoder.end() == "�"
