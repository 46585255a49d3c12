"""Every cache equals no cache: whatever is read in pieces gives what it gives at once."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nano_think.experts import Expert
from nano_think.models.chat import Model
from nano_think.nn.attention import attend_where
from nano_think.nn.cache import PADDING, KeyValues, Rows, RunningMean, Slot, Span, Timeline, pad_left
from nano_think.nn.documents import causal_mask, number_documents, running_mean
from nano_think.nn.mla import LatentAttention
from nano_think.nn.native import Kernels
from tests.tiny import (
    MODELS,
    PARTED,
    START,
    VARIANTS,
    WIDTH,
    draw_tokens,
    few,
    tiny_expert,
    tiny_head,
    tiny_model,
)

T = 37
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}
PIECES = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def packed(B: int = 2) -> Tensor:
    return draw_tokens(B, T, starts=(0, 20))


def cut(pieces: list[int], length: int = T) -> list[int]:
    """Lengths that sum to `length`: the pieces as long as they fit, then the rest."""
    lengths = []
    for piece in pieces:
        lengths.append(min(piece, length - sum(lengths)))
    return [one for one in [*lengths, length - sum(lengths)] if one]


@torch.no_grad()
def in_pieces(expert: Expert, tokens_BT: Tensor, pieces: list[int], more: int = 0) -> Tensor:
    """The expert's hidden states, read in pieces behind its cache."""
    head, documents_BT = tiny_head(), number_documents(tokens_BT, START)
    B, S = tokens_BT.shape
    timeline, cache = Timeline(B, S + more), expert.start(B, S + more)
    parts = zip(tokens_BT.split(pieces, 1), documents_BT.split(pieces, 1), strict=True)
    return torch.cat([expert.extend(head.embed(t), timeline.append(d), cache) for t, d in parts], dim=1)


@torch.no_grad()
def at_once(expert: Expert, tokens_BT: Tensor) -> Tensor:
    return expert(tiny_head().embed(tokens_BT), number_documents(tokens_BT, START))


@pytest.mark.parametrize("name", VARIANTS)
@few(12)
@given(pieces=PIECES)
def test_expert_in_pieces_is_the_expert(name: str, pieces: list[int]):
    """Prefill in any chunks, decode by one: packed documents included."""
    expert = tiny_expert(name)
    got = in_pieces(expert, packed(), cut(pieces))
    torch.testing.assert_close(got, at_once(expert, packed()), **TOLERANCE)


@pytest.mark.parametrize("name", VARIANTS)
def test_expert_token_by_token_is_the_expert(name: str):
    expert = tiny_expert(name)
    torch.testing.assert_close(in_pieces(expert, packed(), [1] * T), at_once(expert, packed()), **TOLERANCE)


@torch.no_grad()
def model_in_pieces(model: Model, tokens_BT: Tensor, pieces: list[int]) -> list[Tensor]:
    past = model.start(*tokens_BT.shape)
    parts = [model.extend(piece, past) for piece in tokens_BT.split(pieces, 1)]
    return [torch.cat(part, dim=1) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", MODELS)
@few(8)
@given(pieces=PIECES)
def test_model_in_pieces_is_the_model(name: str, pieces: list[int]):
    """Hidden, weights and streams, whatever a router remembers."""
    model = tiny_model(name)
    for got, wanted in zip(model_in_pieces(model, packed(), cut(pieces)), model(packed()), strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)


@few(20)
@given(pieces=PIECES, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.6]))
def test_absorbed_decode_is_the_naive_form(pieces: list[int], seed: int, share: float):
    torch.manual_seed(seed)
    layer, u = LatentAttention(12, 3, latent=5, rotated=6), torch.randn(2, T, 12)
    documents_BT = (torch.rand(2, T) < share).cumsum(1)
    timeline, past = Timeline(2, T), layer.start(T)
    with torch.no_grad():
        parts = zip(u.split(cut(pieces), 1), documents_BT.split(cut(pieces), 1), strict=True)
        got = torch.cat([layer.extend(x, timeline.append(d), past) for x, d in parts], dim=1)
        naive = layer(u, attend_where(causal_mask(documents_BT)))
    torch.testing.assert_close(got, naive, atol=1e-5, rtol=1e-5)


def test_absorbed_decode_makes_no_key_and_no_value():
    """Nothing that a decode step makes is as large as the keys of all tokens, and the cache is one row a token."""
    layer, S = LatentAttention(64, 4, latent=8, rotated=4), 200
    timeline, past = Timeline(1, S), layer.start(S)
    documents_BT, sizes = torch.zeros(1, S, dtype=torch.long), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor))
            return out

    with torch.no_grad():
        layer.extend(torch.randn(1, S - 1, 64), timeline.append(documents_BT[:, 1:]), past)
        span = timeline.append(documents_BT[:, :1])
        with Watch():
            layer.extend(torch.randn(1, 1, 64), span, past)
    assert past.rows is not None and past.rows.shape == (1, S, 8 + 4)
    assert max(sizes) <= max(parameter.numel() for parameter in layer.parameters()) < 64 * S


PROMPTS = [[START, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], [START], [START, 9, 8, START, 7, 7, 1]]
NEW = 256


@torch.no_grad()
def assert_greedy(cached: Callable[[Tensor, Tensor | None], Tensor], whole: Callable[[Tensor], Tensor]) -> None:
    """256 greedy tokens of ragged rows behind one cache are those of each row alone, without cache and padding."""
    head, (tokens_BT, documents_BT) = tiny_head(), pad_left(PROMPTS, START)
    rows, seen = [list(prompt) for prompt in PROMPTS], []
    for _ in range(NEW):
        seen.append(head.logits(cached(tokens_BT, documents_BT)[:, -1]).index_fill(-1, torch.tensor([START]), -99.0))
        tokens_BT, documents_BT = seen[-1].argmax(-1, keepdim=True), None
        for row, token in zip(rows, tokens_BT[:, 0].tolist(), strict=True):
            row.append(token)
    for row, prompt, logits_NV in zip(rows, PROMPTS, torch.stack(seen, dim=1), strict=True):
        alone_NV = head.logits(whole(torch.tensor([row[:-1]]))[0, len(prompt) - 1 :])
        alone_NV[:, START] = -99.0
        torch.testing.assert_close(logits_NV, alone_NV, **TOLERANCE)
        assert alone_NV.argmax(-1).tolist() == row[len(prompt) :]


@pytest.mark.parametrize("name", VARIANTS)
def test_256_greedy_tokens_of_ragged_rows(name: str):
    expert, head = tiny_expert(name), tiny_head()
    timeline, past = Timeline(3, 300), expert.start(3, 300)

    def cached(tokens_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
        if documents_BT is None:
            documents_BT = timeline.number(tokens_BT, START)
        return expert.extend(head.embed(tokens_BT), timeline.append(documents_BT), past)

    assert_greedy(cached, lambda tokens_BT: at_once(expert, tokens_BT))


@pytest.mark.parametrize("name", MODELS)
def test_256_greedy_tokens_of_the_model(name: str):
    model = tiny_model(name)
    past = model.start(3, 300)
    assert_greedy(lambda t, d: model.extend(t, past, d).hidden, lambda t: model(t).hidden)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mean", "chat", "chat mixture", *PARTED])
def test_rows_do_not_see_each_other(name: str):
    """Another text in one row changes nothing in the others, bit for bit."""
    model, tokens_BT = tiny_model(name), packed(3)
    other_BT = tokens_BT.clone()
    other_BT[1, 1:] = draw_tokens(3, T, seed=5)[1, 1:]
    one, other = (model_in_pieces(model, t, cut([9, 1, 1, 7])) for t in (tokens_BT, other_BT))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(one[0][1], other[0][1])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[T], [19, 1, T - 20], [1] * T])
@pytest.mark.parametrize("name", ["mean", "chat", *PARTED])
def test_documents_do_not_see_each_other_through_a_cache(name: str, pieces: list[int]):
    model = tiny_model(name)
    tokens_BT, other_BT = packed(), packed()
    other_BT[:, 1:20] = draw_tokens(2, T, seed=5)[:, 1:20]
    one, other = (model_in_pieces(model, t, pieces) for t in (tokens_BT, other_BT))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a[:, 20:], b[:, 20:], **TOLERANCE)
    assert not torch.allclose(one[0][:, 1:20], other[0][:, 1:20], atol=1e-3)


def drop_boundaries(self: Timeline, documents_BT: Tensor) -> Span:
    return APPEND(self, torch.zeros_like(documents_BT))


APPEND = Timeline.append


@pytest.mark.parametrize("name", VARIANTS)
def test_a_cache_that_loses_boundaries_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Timeline, "append", drop_boundaries)
    with pytest.raises(AssertionError, match="not close"):
        test_expert_token_by_token_is_the_expert(name)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_length_of_the_window_does_not_matter(name: str):
    """f(tokens[:, :t]) = f(tokens)[:, :t]: nothing depends on how many tokens there are."""
    expert, whole = tiny_expert(name), at_once(tiny_expert(name), packed())
    for t in (1, 2, 3, 4, 7, 8, 9, 20, 21, 36):
        torch.testing.assert_close(at_once(expert, packed()[:, :t]), whole[:, :t], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_length_of_the_window_does_not_matter_to_the_model(name: str):
    model = tiny_model(name)
    for t in (1, 4, 8, 9, 21):
        for short, whole in zip(model(packed()[:, :t]), model(packed()), strict=True):
            torch.testing.assert_close(short, whole[:, :t], **TOLERANCE)


class Plain(Expert):
    """An expert without a cache of its own."""

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        return running_mean(x_BTD, documents_BT)


def test_an_expert_without_a_cache_of_its_own_is_read_again():
    """The plain twin that a new expert begins with."""
    torch.testing.assert_close(in_pieces(Plain(), packed(), [4, 1, 1, T - 6]), at_once(Plain(), packed()))


@few(20)
@given(pieces=PIECES, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.1, 0.6]))
def test_running_mean_in_pieces_is_the_running_mean(pieces: list[int], seed: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, 5, generator=generator)
    documents_BT = (torch.rand(2, T, generator=generator) < share).cumsum(1)
    timeline, mean = Timeline(2, T), RunningMean()
    parts = zip(x.split(cut(pieces), 1), documents_BT.split(cut(pieces), 1), strict=True)
    got = torch.cat([mean.extend(part, timeline.append(d)) for part, d in parts], dim=1)
    torch.testing.assert_close(got, running_mean(x, documents_BT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["state_space", "state_space s6"])
def test_state_space_keeps_the_same_few_numbers_however_long_the_text(name: str):
    expert, sizes = tiny_expert(name), []
    timeline, past = Timeline(1, 60), expert.start(1, 60)
    with torch.no_grad():
        for _ in range(60):
            expert.extend(torch.randn(1, 1, WIDTH), timeline.append(torch.zeros(1, 1, dtype=torch.long)), past)
            sizes.append(sum(state.tail_BTI.numel() + state.state.numel() for state in past.layers))
    assert len(set(sizes[3:])) == 1


@torch.no_grad()
def together(expert: Expert, prompts: list[list[int]], tokens_TR: Tensor) -> Tensor:
    """Hidden states of the given tokens, (T, R, D), of texts that were read apart and go on in one cache."""
    head, slots = tiny_head(), len(prompts) + 1
    cache, at = expert.start(slots, 60), []
    for slot, prompt in enumerate(prompts):
        timeline, one, tokens_1T = Timeline(1, 60), expert.start(1, 60), torch.tensor([prompt])
        expert.extend(head.embed(tokens_1T), timeline.append(number_documents(tokens_1T, START)), one)
        cache.join(one, Slot(slot + 1, slots, len(prompt)))
        at.append([slot + 1, len(prompt) - 1, max(i for i, token in enumerate(prompt) if token == START)])
    hidden = []
    for tokens_R in tokens_TR:
        for row, token in zip(at, tokens_R.tolist(), strict=True):
            row[1:] = row[1] + 1, row[1] + 1 if token == START else row[2]
        hidden.append(expert.advance(head.embed(tokens_R), Rows(torch.tensor(at).T.contiguous()), cache))
    return torch.stack(hidden)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "plain"])
@pytest.mark.parametrize("name", [*VARIANTS, "replay"])
def test_texts_in_slots_are_what_each_is_alone(name: str, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    """Texts of different lengths, which begin documents at different times, in one cache, token by token."""
    if not kernel:
        monkeypatch.setattr("nano_think.nn.rows.kernels", lambda: Kernels(False, "not wanted"))
    expert = Plain() if name == "replay" else tiny_expert(name)
    tokens_TR = torch.randint(0, START, (20, 3), generator=torch.Generator().manual_seed(3))
    tokens_TR[[7, 12, 12], [0, 0, 2]] = START
    got_TRD = together(expert, PROMPTS, tokens_TR)
    for row, prompt in enumerate(PROMPTS):
        alone_TD = at_once(expert, torch.tensor([prompt + tokens_TR[:, row].tolist()]))[0, len(prompt) :]
        torch.testing.assert_close(got_TRD[:, row], alone_TD, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "plain"])
@pytest.mark.parametrize("name", [*VARIANTS, "replay"])
def test_tokens_are_tried_and_taken_back(name: str, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    """Several tentative tokens of a slot at once are those of no cache, and what is left after `rewind` is too."""
    if not kernel:
        monkeypatch.setattr("nano_think.nn.rows.kernels", lambda: Kernels(False, "not wanted"))
    expert, head, prompt = Plain() if name == "replay" else tiny_expert(name), tiny_head(), PROMPTS[0]
    timeline, one, cache = Timeline(1, 60), expert.start(1, 60), expert.start(2, 60)
    tokens_1T = torch.tensor([prompt])
    expert.extend(head.embed(tokens_1T), timeline.append(number_documents(tokens_1T, START)), one)
    cache.join(one, Slot(1, 2, len(prompt)))
    text = list(prompt)
    for seed, back in enumerate((5, 0, 3, 1)):
        tried = draw_tokens(1, 5, starts=(3,), seed=seed)[0].tolist()
        at = [[1, len(text) + n, begin_of(text + tried[: n + 1])] for n in range(5)]
        got = expert.advance(head.embed(torch.tensor(tried)), Rows(torch.tensor(at).T.contiguous(), turns=5), cache)
        torch.testing.assert_close(got, at_once(expert, torch.tensor([text + tried]))[0, len(text) :], **TOLERANCE)
        cache.rewind(back)
        text += tried[: 5 - back]


def begin_of(tokens: list[int]) -> int:
    return max(place for place, token in enumerate(tokens) if token == START)


def test_a_full_cache_says_so():
    timeline = Timeline(1, 4)
    timeline.append(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(AssertionError, match="2 tokens do not fit behind 3 of 4"):
        timeline.append(torch.zeros(1, 2, dtype=torch.long))
    assert timeline.left == 1


def test_rows_are_padded_on_the_left_by_a_document_of_its_own():
    tokens_BT, documents_BT = pad_left([[9, 1, 9, 2], [3, 4]], start_token=9)
    assert tokens_BT.tolist() == [[9, 1, 9, 2], [9, 9, 3, 4]]
    assert documents_BT.tolist() == [[1, 1, 2, 2], [PADDING, PADDING, 0, 0]]


def test_notes_on_the_margin_are_overwritten():
    """What is written where the next tokens will stand is seen at once, in the buffer or beyond, and then gone."""
    values = KeyValues(capacity=4, margin=1)
    row = torch.arange(1.0, 9.0)[None, None, :, None]
    values.write(0, row[:, :, :2], row[:, :, :2])
    for rows in (1, 3, 6):
        k, v = values.write(2, -row[:, :, :rows], row[:, :, :rows])
        assert k.flatten().tolist() == [1, 2, *(-row.flatten()[:rows]).tolist()] and torch.equal(v.abs(), k.abs())
    k, _ = values.write(2, row[:, :, :1], row[:, :, :1])
    assert k.flatten().tolist() == [1, 2, 1]


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_cache_in_half_precision(name: str):
    """Under autocast too, up to the rounding of bfloat16, and the kept keys are as small as the computed ones."""
    expert = tiny_expert(name)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = in_pieces(expert, packed(), [9, 1, 1, T - 11]), at_once(expert, packed())
    assert got.dtype == wanted.dtype and (got - wanted).abs().max() < 0.05 * wanted.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["expert", "chat", *PARTED])
def test_model_behind_its_cache_in_half_precision(name: str):
    model = tiny_model(name)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = model_in_pieces(model, packed(), [9, 1, 1, T - 11])[0], model(packed()).hidden
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()
