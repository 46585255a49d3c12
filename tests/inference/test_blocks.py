"""Blocks from noise: behind a cache as without one, causal block by block, and into a gap."""

import pytest
import torch
from torch import Tensor

from nano_think.experts.diffuser import Diffuser, noisy, queries
from nano_think.inference.blocks import draw_block, fill_gap, write_blocks
from nano_think.nn.cache import Rows, Slot, Timeline
from nano_think.nn.documents import number_documents
from nano_think.nn.native import Kernels
from nano_think.nn.noise import add_noise
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_expert, tiny_head

TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}


def tiny_diffuser() -> Diffuser:
    expert = tiny_expert("diffuser")
    assert isinstance(expert, Diffuser)
    return expert


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def read(expert: Diffuser, tokens_BT: Tensor, capacity: int) -> tuple[Timeline, object]:
    timeline, cache = Timeline(len(tokens_BT), capacity), expert.start(len(tokens_BT), capacity)
    documents_BT = number_documents(tokens_BT, START)
    expert.extend(tiny_head().embed(tokens_BT), timeline.append(documents_BT), cache)
    return timeline, cache


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 8, 20])
@pytest.mark.parametrize("level", [None, -3.0, 0.5])
def test_a_block_behind_the_cache_is_that_of_the_doubled_sequence(size: int, level: float | None):
    """One cache of clean rows serves every block size, and asking changes nothing in it."""
    expert, head, n = tiny_diffuser(), tiny_head(), 23
    tokens_BT, targets_BT = draw_tokens(2, n + size - 1, starts=(0, 9)), torch.randint(0, START, (2, n + size - 1))
    log_snr_BT = torch.full((2, n + size - 1), level or 0.0)
    z_BTD = add_noise(head.embed(targets_BT), log_snr_BT)
    block_BT, documents_BT = (
        torch.arange(n + size - 1).clamp_max(n - 1).expand(2, -1),
        number_documents(tokens_BT, START),
    )
    x_BTD = head.embed(tokens_BT)
    if level is None:
        noise = queries(x_BTD, block_BT, documents_BT)
    else:
        noise = noisy(head, z_BTD, log_snr_BT, log_snr_BT > 99, block_BT, documents_BT)
    whole = expert.denoise(x_BTD, documents_BT, noise)[:, n - 1 :]
    timeline, cache = read(expert, tokens_BT[:, :n], n + 4)
    ahead = timeline.ahead(size)
    for _ in range(2):
        got = expert.answer(noise.x_BTD[:, n - 1 :], None if level is None else torch.tensor(level), ahead, cache)
        torch.testing.assert_close(got, whole, **TOLERANCE)
    more = draw_tokens(2, 4, starts=())
    got = expert.extend(head.embed(more), timeline.append(timeline.number(more, START)), cache)
    together = torch.cat([tokens_BT[:, :n], more], dim=1)
    torch.testing.assert_close(got, expert(head.embed(together), number_documents(together, START))[:, n:], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "plain"])
@pytest.mark.parametrize("size", [1, 5])
def test_a_block_behind_a_slot_is_that_behind_the_timeline(size: int, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    """`foresee` reads one token and is then `answer` to queries; `answer_rows` is `answer` to noise."""
    if not kernel:
        monkeypatch.setattr("nano_think.nn.rows.kernels", lambda: Kernels(False, "not wanted"))
    expert, head, tokens_BT = tiny_diffuser(), tiny_head(), draw_tokens(1, 12, starts=(0, 4))
    _, before = read(expert, tokens_BT[:, :-1], 12)
    cache = expert.start(3, 12)
    cache.join(before, Slot(2, 3, 11))
    row, x_KD, level = Rows(torch.tensor([[2], [11], [4]])), torch.randn(size, WIDTH), torch.tensor(-0.7)
    timeline, other = read(expert, tokens_BT, 12)
    ahead = timeline.ahead(size)
    query_KD = expert.foresee(head.embed(tokens_BT[0, -1:]), row, size, cache)
    torch.testing.assert_close(query_KD, expert.answer(torch.zeros(1, size, WIDTH), None, ahead, other)[0], **TOLERANCE)
    noisy_KD = expert.answer_rows(x_KD, level, row.ahead(size), cache)
    torch.testing.assert_close(noisy_KD, expert.answer(x_KD[None], level, ahead, other)[0], **TOLERANCE)


def test_same_seed_same_block():
    expert, head = tiny_diffuser(), tiny_head()
    timeline, cache = read(expert, draw_tokens(2, 9), 40)
    one, same, other = (draw_block(expert, head, timeline, cache, 16, generator=seeded(s)) for s in (1, 1, 2))
    assert one.shape == (2, 16) and torch.equal(one, same) and not torch.equal(one, other)
    assert timeline.length == 9


def test_one_step_of_one_token_is_next_token_sampling():
    expert, head = tiny_diffuser(), tiny_head()
    tokens_BT = draw_tokens(1, 9).expand(4000, -1)
    timeline, cache = read(expert, tokens_BT, 10)
    drawn = draw_block(expert, head, timeline, cache, 1, steps=1, generator=seeded(0))
    with torch.no_grad():
        p_V = head.logits(expert(head.embed(tokens_BT[:1]), number_documents(tokens_BT[:1], START))[0, -1]).softmax(-1)
    got_V = torch.bincount(drawn.flatten(), minlength=VOCABULARY) / 4000
    assert (got_V - p_V).abs().sum() / 2 < 0.05


def test_an_oracle_finds_its_tokens(monkeypatch: pytest.MonkeyPatch):
    """Where the denoiser knows the answer, the chain ends at it whatever the noise."""
    expert, head = tiny_diffuser(), tiny_head()
    wanted = torch.randint(0, VOCABULARY, (2, 8))
    monkeypatch.setattr(expert, "answer", lambda *_: 30 * head.embed(wanted))
    timeline, cache = read(expert, draw_tokens(2, 9), 40)
    assert torch.equal(draw_block(expert, head, timeline, cache, 8, generator=seeded(0)), wanted)


def test_untrained_chain_draws_from_the_unigram_distribution():
    """Without a word from the network each token is drawn from the bias: DDIM keeps the distribution."""
    expert, head = tiny_diffuser(), tiny_head()
    expert.out.weight.data.zero_()
    timeline, cache = read(expert, draw_tokens(500, 2), 20)
    drawn = draw_block(expert, head, timeline, cache, 8, steps=40, generator=seeded(0))
    got_V = torch.bincount(drawn.flatten(), minlength=VOCABULARY) / drawn.numel()
    assert (got_V - head.bias.softmax(0)).abs().sum() / 2 < 0.08


def test_a_text_of_blocks_is_causal_block_by_block():
    """Later blocks see the earlier ones, and asking for more blocks changes no earlier one."""
    expert, head, prompt = tiny_diffuser(), tiny_head(), draw_tokens(2, 5)
    short = write_blocks(expert, head, prompt, START, 2, 4, generator=seeded(3))
    longer = write_blocks(expert, head, prompt, START, 4, 4, generator=seeded(3))
    assert short.shape == (2, 8) and longer.shape == (2, 16) and torch.equal(longer[:, :8], short)
    timeline, cache = read(expert, torch.cat([prompt, longer[:, :4]], dim=1), 30)
    generator = seeded(3)
    write_blocks(expert, head, prompt, START, 1, 4, generator=generator)
    assert torch.equal(draw_block(expert, head, timeline, cache, 4, generator=generator), short[:, 4:])


@torch.no_grad()
def test_a_gap_is_filled_as_training_read_it():
    """The block's hidden states are those of the window in its permuted order, at its own positions."""
    expert, head, size = tiny_diffuser(), tiny_head(), 4
    before, after = draw_tokens(2, 7), draw_tokens(2, 6, starts=(), seed=2)
    n = before.shape[1] + after.shape[1]
    order = torch.cat([torch.arange(7), torch.arange(11, 17), torch.arange(7, 11)])
    tokens_BT = torch.cat([before, after, torch.zeros(2, size - 1, dtype=torch.long)], dim=1)
    documents_BT = number_documents(tokens_BT, START)
    block_BT = torch.arange(tokens_BT.shape[1]).clamp_max(n - 1).expand(2, -1)
    x_BTD = head.embed(tokens_BT)
    whole = expert.denoise(x_BTD, documents_BT, queries(x_BTD, block_BT, documents_BT), order)[:, n - 1 :]
    seen = []
    answer = expert.answer
    expert.answer = lambda *a: seen.append(answer(*a)) or seen[-1]  # type: ignore[method-assign]
    filled = fill_gap(expert, head, before, after, START, size, steps=2, generator=seeded(0))
    assert filled.shape == (2, size)
    torch.testing.assert_close(seen[0], whole, **TOLERANCE)


def test_a_long_gap_is_filled_block_after_block():
    """A gap of one block is as before; the second block of a longer one sees the first, and what comes after."""
    expert, head, before, after = tiny_diffuser(), tiny_head(), draw_tokens(2, 7), draw_tokens(2, 6, (), seed=2)
    whole = fill_gap(expert, head, before, after, START, 8, generator=seeded(5), block=4)
    assert whole.shape == (2, 8)
    one = fill_gap(expert, head, before, after, START, 4, generator=seeded(5))
    assert torch.equal(one, fill_gap(expert, head, before, after, START, 4, generator=seeded(5), block=4))
    seen = []
    answer = expert.answer
    expert.answer = lambda *a: seen.append(a[2]) or answer(*a)  # type: ignore[method-assign]
    fill_gap(expert, head, before, after, START, 10, steps=1, generator=seeded(5), block=4)
    assert [span.end - span.first for span in seen] == [4, 4, 2]
    assert [span.first for span in seen] == [13, 17, 21]
