"""Memetic learning: does a population of adapters learn a new domain better than as many gradient steps spent plainly?

The base has read text and no chat; its matrices stay, and adapters of rank 4 learn chats. Metric: nats per token of the
assistant in the test chats. Null, with as many gradient steps and adapters of the same rank: the best, by the test
chats, of one adapter trained all the way, of as many adapters as the population trained apart with rates drawn likewise
(the one of the lowest validation loss), and of their soup.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from component_ways.ground import Ground
from nano_think.core.rng import branch
from nano_think.data.chat_windows import ChatWindows
from nano_think.data.tokens import TokenSet
from nano_think.experts import count_parameters
from nano_think.stages.sft import expect_ends, marks_of
from nano_think.training.memes import Host, Meme, MemesConfig, draw_rate, evolve, learn, soup
from nano_think.training.objectives.chat import ChatObjective

BATCHES = 6


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    model, _ = ground.chat(seed, {})
    batch, folder = ground.config.sft.batch, ground.artifacts["chat_tokens"].path
    marks, text = marks_of(ground.tokenizer()), TokenSet.open(folder, "train")
    expect_ends(model, text, marks)
    host = Host(ChatObjective(model, marks))
    steps = max(1, tokens // (batch * ground.window * 15))
    config = MemesConfig(population=6, births=9, steps=steps)
    niche, asked = (batches(folder, split, ground.window, batch) for split in ("validation", "test"))
    found = {
        name: host.measure(way(host, config, draws(text, ground.window, batch, seed), niche, seed), asked)
        for name, way in {"memes": by_evolution, "one": straight, "apart": apart, "soup": by_soup}.items()
    }
    before = host.measure(host.born(1, torch.Generator()), asked)
    numbers = sum(out.numel() + into.numel() for out, into in host.born(4, torch.Generator()).factors.values())
    return {
        "metric": "nats per token of chats, after reading text alone", "better": "lower", "value": found["memes"],
        "null": "as many steps spent plainly", "null_value": min(found[name] for name in ("one", "apart", "soup")),
        "parameters": numbers / count_parameters(model), "flops": 0.0, "bits_per_byte": None,
        "more": {"losses": found, "before": before, "gradient_steps": config.gradient_steps},
    }  # fmt: skip


def batches(folder: Any, split: str, window: int, batch: int) -> list[Tensor]:
    """The first batches of a split's chats, the same ones always."""
    windows = ChatWindows(TokenSet.open(folder, split), window, batch, seed=0)
    return [torch.from_numpy(windows.batch(step)) for step in range(min(BATCHES, windows.steps_per_epoch))]


def draws(text: TokenSet, window: int, batch: int, seed: int) -> Callable[[], Tensor]:
    """Batches of chats, one after another."""
    windows, steps = ChatWindows(text, window, batch, branch(seed, "memes")), iter(range(10**9))
    return lambda: torch.from_numpy(windows.batch(next(steps)))


def by_evolution(host: Host, config: MemesConfig, draw: Callable, niche: list[Tensor], seed: int) -> Meme:
    return evolve(host, config, draw, niche, seed)[0]


def straight(host: Host, config: MemesConfig, draw: Callable, niche: list[Tensor], seed: int) -> Meme:
    """One adapter with the middle rate."""
    meme = host.born(config.rank, torch.Generator().manual_seed(seed))
    learn(host, meme, config.gradient_steps, (config.low * config.high) ** 0.5, draw)
    return meme


def apart(host: Host, config: MemesConfig, draw: Callable, niche: list[Tensor], seed: int) -> Meme:
    """The fittest of adapters that learn for themselves."""
    return alone(host, config, draw, niche, seed)[0]


def by_soup(host: Host, config: MemesConfig, draw: Callable, niche: list[Tensor], seed: int) -> Meme:
    """The mean of the better half of them."""
    return soup(alone(host, config, draw, niche, seed)[: config.population // 2], config.rank)


def alone(host: Host, config: MemesConfig, draw: Callable, niche: list[Tensor], seed: int) -> list[Meme]:
    dice, rates, memes = torch.Generator().manual_seed(seed), np.random.default_rng(seed), []
    for _ in range(config.population):
        meme = host.born(config.rank, dice)
        learn(host, meme, config.gradient_steps // config.population, draw_rate(config, rates), draw)
        meme.loss = host.measure(meme, niche)
        memes.append(meme)
    return sorted(memes, key=lambda meme: meme.loss)
