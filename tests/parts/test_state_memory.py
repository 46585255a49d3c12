"""State memory: what stands in its columns, who reads it, and that it is the same however a text was cut."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nano_think.nn.columns import newest, stands
from nano_think.nn.weights import load_weights, save_weights
from nano_think.parts.state_memory import StateMemory, soften
from tests.perturbation import randomise_zeros
from tests.tiny import START, WIDTH, draw_tokens, few, tiny_chat, tiny_head, tiny_part

LENGTH = 41


def part_of(**shape) -> StateMemory:
    torch.manual_seed(3)
    part = randomise_zeros(tiny_part("state_memory", **shape))
    assert isinstance(part, StateMemory)
    return part.eval()


def embeddings(length: int = LENGTH, seed: int = 0) -> Tensor:
    return tiny_head().embed(draw_tokens(1, length, seed=seed))


def one_document(x_BTD: Tensor) -> Tensor:
    return torch.zeros(x_BTD.shape[:2], dtype=torch.long)


def plainly(part: StateMemory, x_TD: Tensor) -> Tensor:
    """The same of one document, token by token: columns as lists."""
    config, found = part.config, []
    standing: list[list[Tensor]] = [[] for _ in range(config.columns)]
    open_SD, tokens = torch.zeros(config.slots, part.width), 0
    for t in range(len(x_TD)):
        taps = [x_TD[t - n] if n <= t else torch.zeros(part.width) for n in range(config.taps)]
        f_D = torch.nn.functional.silu(part.together(torch.cat(taps)))
        found.append(x_TD[t] + told(part, f_D, [one for column in standing for one in column]))
        *score, gate = part.address(f_D)
        open_SD = open_SD + torch.stack(score).softmax(0)[:, None] * gate.sigmoid() * part.written(f_D)
        tokens += 1
        if tokens == config.segment:
            put(part, standing, 0, open_SD)
            open_SD, tokens = torch.zeros_like(open_SD), 0
    return torch.stack(found)


def put(part: StateMemory, standing: list[list[Tensor]], place: int, summary_SD: Tensor) -> None:
    column, last = standing[place], place == part.config.columns - 1
    column.append(summary_SD)
    if last:
        del column[: -part.config.base]
    elif len(column) == part.config.base:
        merged_SD = sum(2 * part.kept(soften(one)).sigmoid() * one for one in column)
        column.clear()
        put(part, standing, place + 1, merged_SD)


def told(part: StateMemory, f_D: Tensor, summaries: list[Tensor]) -> Tensor:
    slots_YD = soften(torch.cat(summaries)) if summaries else torch.zeros(0, part.width)
    nothing, heads = torch.zeros(1, part.width), part.config.heads
    k_YNH, v_YNH = (torch.cat([nothing, m(slots_YD)]).unflatten(-1, (heads, -1)) for m in (part.key, part.value))
    q_NH = part.asked(f_D).unflatten(-1, (heads, -1))
    weight_YN = ((k_YNH * q_NH).sum(-1) * q_NH.shape[-1] ** -0.5).softmax(0)
    return part.told((weight_YN[..., None] * v_YNH).sum(0).flatten())


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, {"base": 3, "segment": 1}, {"columns": 1, "base": 3}, {"taps": 1, "segment": 5}])
def test_what_is_read_at_once_is_what_stands_in_lists(shape: dict):
    part, x_1TD = part_of(**shape), embeddings()
    got_TD = part.read(x_1TD, x_1TD, one_document(x_1TD))[0]
    torch.testing.assert_close(got_TD, plainly(part, x_1TD[0]), atol=1e-5, rtol=1e-5)


@few(60)
@given(total=st.integers(0, 300), base=st.integers(2, 5))
def test_a_column_holds_what_is_not_yet_part_of_a_larger_summary(total: int, base: int):
    count_1K = newest(torch.tensor([total]), base)
    there_K = stands(count_1K, torch.tensor([[total]]), base, last=False)[0, 0]
    wanted = set(range(total // base * base + 1, total + 1))
    assert set(count_1K[0][there_K].tolist()) == wanted
    newest_K = stands(count_1K, torch.tensor([[total]]), base, last=True)[0, 0]
    assert set(count_1K[0][newest_K].tolist()) == set(range(max(1, total - base + 1), total + 1))


def moved_by(part: StateMemory, place: int) -> Tensor:
    """Whether another token at a place changes what each token is told, (T)."""
    x_1TD = embeddings(60)
    other_1TD = x_1TD.clone()
    other_1TD[:, place] += 1
    with torch.no_grad():
        one, other = (part.read(x, x, one_document(x)) - x for x in (x_1TD, other_1TD))
    return (one != other).any(-1)[0]


def test_columns_remember_what_a_queue_has_forgotten():
    """A queue of as many summaries as the columns hold tells nothing of what is further back."""
    columns, queue = moved_by(part_of(columns=8), 1), moved_by(part_of(columns=1, base=4), 1)
    assert columns[12:].all() and queue[2:10].all() and not queue[12:].any()


def test_a_token_is_told_of_segments_before_its_own_alone():
    moved_T = moved_by(part_of(segment=8, taps=1), 17)
    assert moved_T[17] and not moved_T[18:24].any() and moved_T[24:].all()


def test_what_is_kept_grows_with_the_logarithm_of_the_text():
    model, sizes = tiny_chat(parts=["state_memory"], columns=20), []
    for length in (16, 64, 256, 1024):
        kept = model.fold(draw_tokens(1, length)[0], {})
        sizes.append(sum(tensor.numel() for tensor in kept["state_memory"].values()))
    steps = {later - earlier for earlier, later in pairwise(sizes)}
    assert len(steps) == 1 and steps.pop() == 2 * 2 * 2 * WIDTH


@torch.no_grad()
@pytest.mark.parametrize("first", [1, 2, 7, 16, 29])
def test_a_text_goes_on_from_what_was_saved(first: int, tmp_path: Path):
    """Bit for bit as from what was never put away."""
    model, tokens_1T = tiny_chat(parts=["state_memory"]), draw_tokens(1, LENGTH)
    kept = model.fold(tokens_1T[0, :first], {})
    save_weights(tmp_path / "kept", kept["state_memory"])
    again = {"state_memory": load_weights(tmp_path / "kept")}
    one, other = (read_on(model, tokens_1T[:, first:], state) for state in (kept, again))
    assert torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1, 40], [20, 21], [3, 3, 3, 32], [1] * LENGTH])
def test_what_is_kept_is_the_same_however_a_text_was_cut(pieces: list[int]):
    model, tokens_T = tiny_chat(parts=["state_memory"]), draw_tokens(1, LENGTH)[0]
    whole, kept = model.fold(tokens_T, {}), {}
    for piece_T in tokens_T.split(pieces):
        kept = model.fold(piece_T, kept)
    for name, tensor in whole["state_memory"].items():
        torch.testing.assert_close(kept["state_memory"][name], tensor, atol=1e-5, rtol=1e-5)


def read_on(model, tokens_1T: Tensor, kept: dict) -> Tensor:
    cache = model.start(1, tokens_1T.shape[1])
    model.carry(cache, kept)
    return model.extend(tokens_1T, cache).hidden


@torch.no_grad()
def test_what_was_read_before_the_window_is_told_in_it():
    """Also behind a start token, which a context begins with; and of nothing else than what was read."""
    model, tokens_1T = tiny_chat(parts=["state_memory"]), draw_tokens(1, 20)
    kept = model.fold(draw_tokens(1, 30, seed=1)[0], {})
    other = model.fold(draw_tokens(1, 30, seed=2)[0], {})
    told, again, of_another = (read_on(model, tokens_1T, one) for one in (kept, kept, other))
    assert torch.equal(told, again)
    assert not torch.allclose(told, of_another, atol=1e-4)
    assert not torch.allclose(told, model(tokens_1T).hidden, atol=1e-4)


def test_a_share_of_the_windows_is_cut_while_training():
    """For the body alone, in the middle half, the same windows always; and none where nothing is learned."""
    part, tokens_BT = part_of(cut=0.5), draw_tokens(200, 20)
    documents_BT = (tokens_BT == START).cumsum(1)
    assert torch.equal(part.hide(documents_BT, tokens_BT), documents_BT)
    hidden_BT = part.train().hide(documents_BT, tokens_BT)
    change_BT = hidden_BT[:, 1:] != hidden_BT[:, :-1]
    places = change_BT.nonzero()[:, 1] + 1
    assert 70 < change_BT.any(1).sum() < 130 and places.min() >= 5 and places.max() < 15
    assert torch.equal(part.hide(documents_BT[3:4], tokens_BT[3:4]), hidden_BT[3:4])
