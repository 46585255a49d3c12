"""A population of adapters."""

import pytest
import torch

from nano_think.training.memes import Host, MemesConfig, cross, evolve, learn, soup
from nano_think.training.objectives.chat import TextObjective
from tests.tiny import draw_tokens, tiny_chat
from tests.tiny_training import MARKS, make_windows


@pytest.fixture
def host() -> Host:
    return Host(TextObjective(tiny_chat(), MARKS))


def drawn(host: Host):
    steps = iter(range(10**6))
    windows = make_windows()
    return lambda: torch.from_numpy(windows.batch(next(steps)))


def test_a_meme_that_is_born_changes_nothing(host: Host):
    windows = draw_tokens(2, 12)
    meme = host.born(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = sum(host.objective(windows, 0.0).values())
        assert torch.equal(host.loss(meme, windows), plain)  # type: ignore[arg-type]


def test_a_meme_learns_and_its_host_does_not(host: Host):
    before = {name: value.clone() for name, value in host.objective.state_dict().items()}
    meme, windows = host.born(2, torch.Generator().manual_seed(0)), draw_tokens(4, 13)
    first = host.measure(meme, [windows])
    learn(host, meme, 20, 0.02, lambda: windows)
    assert host.measure(meme, [windows]) < first - 0.1
    assert all(torch.equal(value, before[name]) for name, value in host.objective.state_dict().items())


def test_a_child_has_each_matrix_from_one_parent(host: Host):
    dice = torch.Generator().manual_seed(0)
    one, other = host.born(2, dice), host.born(2, dice)
    child = cross(one, other, 0.0, dice)
    owners = {
        next(n for n, parent in enumerate((one, other)) if torch.equal(parent.factors[name][1], into))
        for name, (_, into) in child.factors.items()
    }
    assert owners == {0, 1}


def test_an_imitator_comes_nearer_to_its_model(host: Host):
    dice, windows = torch.Generator().manual_seed(0), draw_tokens(4, 13)
    model = host.born(2, dice)
    learn(host, model, 15, 0.03, lambda: windows)
    apart = {}
    for weight in (0.0, 10.0):
        meme = host.born(2, torch.Generator().manual_seed(1))
        learn(host, meme, 15, 0.02, lambda: windows.flip(1), model, weight)
        with torch.no_grad():
            apart[weight] = float((host.log_p(meme, windows) - host.log_p(model, windows)).abs().mean())
    assert apart[10.0] < apart[0.0]


def test_the_fittest_comes_first_and_the_same_seed_gives_the_same(host: Host):
    config = MemesConfig(population=3, births=3, steps=2, rank=1)
    niche = [draw_tokens(2, 13, seed=1)]
    memes = evolve(host, config, drawn(host), niche, seed=4)
    again = evolve(host, config, drawn(host), niche, seed=4)
    losses = [meme.loss for meme in memes]
    assert losses == sorted(losses) == [meme.loss for meme in again] and len(memes) == 3
    assert losses[0] == pytest.approx(host.measure(memes[0], niche))
    assert config.gradient_steps == 12


def test_a_soup_of_one_is_the_meme(host: Host):
    dice, windows = torch.Generator().manual_seed(0), draw_tokens(2, 12)
    meme = host.born(2, dice)
    learn(host, meme, 3, 0.02, lambda: windows)
    with torch.no_grad():
        torch.testing.assert_close(host.loss(soup([meme, meme], 2), windows), host.loss(meme, windows))
