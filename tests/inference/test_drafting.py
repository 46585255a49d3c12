"""Guesses change how fast a text comes, and nothing of what it may be."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nano_think.core.errors import UsageError
from nano_think.experts import EXPERTS
from nano_think.inference.drafting import Drafter
from nano_think.inference.engine import Engine
from nano_think.inference.request import Event, Request
from nano_think.inference.sampling import SamplingConfig, accept, distribution
from nano_think.models.chat import Model
from nano_think.models.think import NanoThink
from nano_think.nn.native import Kernels
from tests.tiny import ROUTERS, START, tiny_chat, tiny_mixture, tiny_model

GREEDY = SamplingConfig(temperature=0.0)
# Every way of guessing: each expert one token after another, the diffuser its block in one answer and in several.
WAYS = [(name, steps) for name in EXPERTS for steps in ((1, 4) if name == "diffuser" else (1,))]


class Letters:
    """A tokenizer whose ids are capital letters and what follows them."""

    def token_bytes(self, token: int) -> bytes:
        return bytes([65 + token])


def never_ending(model: NanoThink) -> NanoThink:
    model.head.bias[START] = -1e9
    return model


def write(model: Model, request: Request, window: int, drafter: Drafter | None = None) -> list[Event]:
    return list(Engine(model, Letters(), window, rows=1, drafter=drafter).stream(request))


def request(most: int = 40, sampling: SamplingConfig = GREEDY, **settings) -> Request:
    return Request(prompt=(START, 3, 4), max_new_tokens=most, sampling=sampling, **settings)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "plain"])
@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize(("expert", "steps"), WAYS)
def test_greedy_text_is_the_same_with_drafts(
    expert: str, steps: int, tokens: int, kernel: bool, monkeypatch: pytest.MonkeyPatch
):
    """Token, text, weights and end of each event, also where the window moves on."""
    if not kernel:
        monkeypatch.setattr("nano_think.nn.rows.kernels", lambda: Kernels(False, "not wanted"))
    model, asked = never_ending(tiny_mixture()), request(logprobs=2)
    drafter = Drafter(model, expert, tokens, steps)
    plain, drafted = write(model, asked, 16), write(model, asked, 16, drafter)
    assert [event.token for event in drafted] == [event.token for event in plain]
    for got, wanted in zip(drafted, plain, strict=True):
        assert (got.text, got.finish) == (wanted.text, wanted.finish)
        assert got.weights == pytest.approx(wanted.weights, abs=1e-5)
        assert got.logprob == pytest.approx(wanted.logprob, abs=1e-4)
    assert drafter.tally.guessed > 0


@pytest.mark.parametrize("router", [*ROUTERS, "chat mixture"])
@pytest.mark.parametrize("expert", EXPERTS)
def test_greedy_text_is_the_same_whatever_the_router_remembers(expert: str, router: str):
    model = never_ending(tiny_model(router))
    plain, drafted = (write(model, request(), 64, drafter) for drafter in (None, Drafter(model, expert)))
    assert [event.token for event in drafted] == [event.token for event in plain]


def test_a_drafter_that_is_the_mixture_is_always_right():
    """With all weight on one expert its guesses are the mixture's own tokens, and each judgement brings all of them."""
    model = never_ending(tiny_mixture("static"))
    model.router.blend.bias.data = torch.tensor([-99.0 if name != "transformer" else 99.0 for name in model.names])
    model.router.blend.scale.data.fill_(1.0)
    for sampling in (GREEDY, SamplingConfig(temperature=1.0)):
        drafter = Drafter(model, "transformer", tokens=4)
        events = write(model, request(21, sampling), 64, drafter)
        assert len(events) == 21 and drafter.tally.kept == drafter.tally.guessed == 16
        assert drafter.tally.judged == 4


def test_the_end_of_a_document_ends_a_draft():
    model = tiny_mixture()
    model.head.bias.zero_()[START] = 1e6
    for expert in EXPERTS:
        (event,) = write(model, request(), 64, Drafter(model, expert))
        assert (event.token, event.text, event.finish) == (None, "", "stop")


def test_a_stop_string_within_a_draft_ends_the_text_before_it():
    model = never_ending(tiny_mixture())
    letters = "".join(event.text for event in write(model, request(), 64))
    for expert, first in itertools.product(EXPERTS, (3, 4, 5, 6)):
        asked = request(stop=(letters[first : first + 2],))
        got = write(model, asked, 64, Drafter(model, expert, tokens=5))
        wanted = write(model, asked, 64)
        assert [(e.token, e.text, e.finish) for e in got] == [(e.token, e.text, e.finish) for e in wanted]


def test_same_seed_same_drafted_text():
    model = never_ending(tiny_mixture())
    texts = [
        [
            event.token
            for event in write(model, request(sampling=SamplingConfig(seed=seed)), 64, Drafter(model, "diffuser"))
        ]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def chi_square(counts: Counter, p: dict[tuple[int, ...], float]) -> float:
    """Pearson's statistic over its degrees of freedom, where cells with fewer than 5 expected draws count as one."""
    n = sum(counts.values())
    assert not set(counts) - set(p), "what is impossible was drawn"
    large = [cell for cell in p if n * p[cell] >= 5]
    cells = [(counts[cell], n * p[cell]) for cell in large]
    rest = n * (1 - sum(p[cell] for cell in large))
    if rest > 5:
        cells.append((n - sum(count for count, _ in cells), rest))
    return sum((count - wanted) ** 2 / wanted for count, wanted in cells) / (len(cells) - 1)


def test_accepted_and_replaced_tokens_have_the_distribution_of_the_judge():
    """Whatever the guesses are drawn from: similar, disjoint in part, or the same."""
    generator = torch.Generator().manual_seed(0)
    p_V = torch.tensor([0.5, 0.2, 0.15, 0.15, 0.0])
    for q_V in (p_V, torch.tensor([0.1, 0.2, 0.3, 0.0, 0.4]), torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])):
        guesses = torch.multinomial(q_V, 4000, replacement=True, generator=generator).tolist()
        counts = Counter((accept(p_V, q_V, guess, generator),) for guess in guesses)
        # 3 degrees of freedom: 5.4 times as many happen once in a thousand.
        assert chi_square(counts, {(v,): p for v, p in enumerate(p_V.tolist()) if p}) < 5.4


@torch.no_grad()
def continuations(model: NanoThink, sampling: SamplingConfig, most: int) -> dict[tuple[int, ...], float]:
    """Every text of `most` tokens that can follow the prompt, with its probability, from the model without cache."""
    found = {(): 1.0}
    for _ in range(most):
        longer = {}
        for text, p in found.items():
            tokens = [START, 3, 4, *text]
            logits_V = model.logits(model(torch.tensor([tokens])))[0, -1]
            seen = set() if sampling.repetition_penalty == 1 else {*tokens} - {START}
            p_V = distribution(logits_V, sampling, seen)
            longer |= {(*text, int(v)): p * float(p_V[v]) for v in p_V.nonzero()[:, 0]}
        found = longer
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("expert", "steps"), WAYS)
def test_drafted_texts_have_the_distribution_of_the_mixture(expert: str, steps: int):
    """Chi-square over all continuations of three tokens: one without a draft, a guess and what comes behind it."""
    model = never_ending(tiny_mixture())
    sampling = SamplingConfig(temperature=1.5, top_k=3, top_p=1.0, repetition_penalty=1.3)
    p, drafter = continuations(model, sampling, 4), Drafter(model, expert, tokens=2, steps=steps)
    engine, counts = Engine(model, Letters(), 64, rows=1, drafter=drafter), Counter()
    for seed in range(800):
        asked = request(4, replace(sampling, seed=seed))
        counts[tuple(event.token for event in engine.stream(asked))] += 1
    assert 0 < drafter.tally.kept < drafter.tally.guessed
    # Of some 80 cells: 1.6 times the degrees of freedom happen once in a thousand.
    assert chi_square(counts, p) < 1.6


@pytest.mark.parametrize("expert", ["", "diffusor"])
def test_an_expert_that_is_not_there_cannot_draft(expert: str):
    with pytest.raises(UsageError, match="draft: wanted an expert of a mixture"):
        Drafter(tiny_mixture(), expert)
    with pytest.raises(UsageError, match="draft: wanted an expert of a mixture"):
        Drafter(tiny_chat(), "transformer")
    with pytest.raises(UsageError, match="1 or more"):
        Drafter(tiny_mixture(), "diffuser", tokens=0)
