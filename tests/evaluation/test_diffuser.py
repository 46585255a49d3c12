"""The diffuser's likelihoods: each the equation of its docstring, and none mistaken for another."""

import math

import numpy as np
import pytest
import torch

from nano_think.evaluation.diffuser import Rows, elbo, factorised, likelihoods, one_step
from nano_think.evaluation.reading import Document, windows
from nano_think.experts.diffuser import Diffuser, noisy
from nano_think.nn.documents import number_documents
from nano_think.nn.noise import noise_window
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_expert, tiny_head

LENGTHS = (3, 40, 1, 17, 25)
NOISY = noisy


def tiny_diffuser(trained: bool = True) -> Diffuser:
    expert = tiny_expert("diffuser")
    assert isinstance(expert, Diffuser)
    if not trained:
        expert.out.weight.data.zero_()
    return expert


def documents() -> list[Document]:
    made = []
    for seed, length in enumerate(LENGTHS):
        tokens = draw_tokens(1, length, seed=seed)[0].numpy().astype(np.int64)
        made.append(Document(tokens, 2 * length, "made"))
    return made


def rows(B: int = 2, T: int = 24) -> Rows:
    tokens_BT1 = draw_tokens(B, T + 1)
    inputs_BT = tokens_BT1[:, :-1]
    return Rows(tiny_head().embed(inputs_BT), tokens_BT1[:, 1:], number_documents(inputs_BT, START))


def test_every_token_of_the_documents_is_a_target_once():
    targets = [t[real] for _, t, real in windows(documents(), 16, START)]
    assert sorted(torch.cat(targets).tolist()) == sorted(t for d in documents() for t in d.tokens[1:].tolist())


@torch.no_grad()
def test_one_step_is_the_next_token_loss():
    expert, head, given = tiny_diffuser(), tiny_head(), rows()
    hidden_BTD = expert(given.x_BTD, given.documents_BT)
    torch.testing.assert_close(one_step(expert, head, given), head.nll_plainly(hidden_BTD, given.targets_BT))
    torch.testing.assert_close(factorised(expert, head, given, 1), one_step(expert, head, given))


@torch.no_grad()
def test_first_token_of_a_block_has_the_same_past_in_both():
    """A factorised block differs from one-step where tokens inside it would have been seen."""
    expert, head, given = tiny_diffuser(), tiny_head(), rows()
    whole, apart = one_step(expert, head, given), factorised(expert, head, given, 8)
    assert not torch.isclose(whole, apart, atol=1e-4)[:, 1:8].all()
    assert expert.denoise is not None and (apart > 0).all()


@torch.no_grad()
def test_bound_of_single_tokens_is_tight():
    """I-MMSE: the bound equals the exact likelihood, up to its draws."""
    expert, head, given = tiny_diffuser(), tiny_head(), rows(8, 64)
    drawn = torch.stack([elbo(expert, head, given, 1, 64) for _ in range(4)]).mean(0)
    exact = one_step(expert, head, given)
    assert drawn.mean().item() == pytest.approx(exact.mean().item(), rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("block", [4, 8])
def test_bound_of_independent_tokens_is_their_entropy(block: int):
    """An exactly solvable case: tokens from the bias alone, which the untrained denoiser knows."""
    expert, head = tiny_diffuser(trained=False), tiny_head()
    tokens_BT1 = torch.multinomial(head.bias.softmax(0), 64 * 33, replacement=True).view(64, 33)
    given = Rows(head.embed(tokens_BT1[:, :-1]), tokens_BT1[:, 1:], torch.zeros(64, 32, dtype=torch.long))
    exact = -head.bias[tokens_BT1[:, 1:]].mean().item()
    assert factorised(expert, head, given, block).mean().item() == pytest.approx(exact, abs=1e-4)
    assert elbo(expert, head, given, block, 48).mean().item() == pytest.approx(exact, rel=0.02)


@torch.no_grad()
def test_a_worse_denoiser_has_a_looser_bound(monkeypatch: pytest.MonkeyPatch):
    """The bound pays for every error of the denoised mean, so a denoiser without evidence cannot look good."""
    expert, head, given = tiny_diffuser(trained=False), tiny_head(), rows(8, 32)
    honest = elbo(expert, head, given, 8, 24).mean()
    monkeypatch.setattr("nano_think.evaluation.diffuser.noisy", lambda *a: NOISY(*a)._replace(skip_BTD=0 * a[1]))
    assert elbo(expert, head, given, 8, 24).mean() > 1.2 * honest


def test_bits_per_byte_by_name():
    expert, head = tiny_diffuser(), tiny_head()
    state = torch.random.get_rng_state()
    got = likelihoods(expert, head, documents(), 16, START, strata=8, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state) and set(got) == {
        "one_step", "elbo_1", "factorised", "elbo",
    }  # fmt: skip
    assert got == likelihoods(expert, head, documents(), 16, START, strata=8, seed=3)
    nats = 0.0
    for inputs_BT, targets_BT, real_BT in windows(documents(), 16, START):
        with torch.no_grad():
            hidden_BTD = expert(head.embed(inputs_BT), number_documents(inputs_BT, START))
            nats += float(head.nll(hidden_BTD, targets_BT)[real_BT].sum())
    assert got["one_step"] == pytest.approx(nats / math.log(2) / (2 * sum(LENGTHS)), rel=1e-6)


def test_noise_window_begins_where_nothing_is_known():
    """The bound's first term, the information left at the noisiest level, is a few hundredths of a nat."""
    low, _ = noise_window(VOCABULARY, WIDTH)
    assert 0 < WIDTH / 2 * math.log1p(math.exp(low)) < 0.02
