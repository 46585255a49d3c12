"""Speculative decoding with a trained mixture: how many guesses are kept, and what that is worth."""

import argparse
from pathlib import Path
from typing import Any

from _timing import Step, medians, take_turns

from nano_think.data.tokenizer import Tokenizer
from nano_think.experts.diffuser import Diffuser
from nano_think.inference.drafting import Drafter
from nano_think.inference.engine import Engine
from nano_think.inference.request import Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.checkpoint import load_model
from nano_think.models.think import NanoThink

PROMPTS = ("In the beginning", "And the LORD said unto", "def main(", "import os\n", "The people of the", "class Node:")
TEMPERATURES = (0.0, 0.8)


class Way:
    """Writing after each prompt, with a drafter or without; counts the tokens of all rounds."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, temperature: float, tokens: int):
        self.engine, self.written = engine, 0
        sampling = [SamplingConfig(temperature=temperature, seed=seed) for seed in range(len(PROMPTS))]
        self.requests = [
            Request(prompt=tuple(tokenizer.encode_document(prompt)), max_new_tokens=tokens, sampling=one)
            for prompt, one in zip(PROMPTS, sampling, strict=True)
        ]

    def __call__(self) -> None:
        for request in self.requests:
            self.written += sum(event.token is not None for event in self.engine.stream(request))


def measure_drafts(args: argparse.Namespace) -> dict[str, Any]:
    """Of each way of drafting: tokens per second, its ratio to none, and guesses that were kept per judgement."""
    model, shape = load_model(Path(args.model))
    assert isinstance(model, NanoThink), "drafts are for a mixture"
    tokenizer, found = Tokenizer.load(Path(args.model)), dict[str, Any]()

    def way(temperature: float, *draft: Any) -> Way:
        drafter = Drafter(model, *draft) if draft else None
        return Way(Engine(model, tokenizer, shape.window, rows=1, drafter=drafter), tokenizer, temperature, args.tokens)

    for temperature in TEMPERATURES:
        ways = {"none": way(temperature)}
        for name, expert in model.experts.items():
            for tokens in args.draft_tokens:
                for steps in args.draft_steps if isinstance(expert, Diffuser) else (1,):
                    ways[f"{name}.{tokens}" + f".{steps}" * isinstance(expert, Diffuser)] = way(
                        temperature, name, tokens, steps
                    )
        found |= {f"{name}.temperature_{temperature}": value for name, value in rates(ways, args.rounds).items()}
    return found


def rates(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    steps: dict[str, Step] = dict(ways)
    seconds = medians(take_turns(steps, rounds))
    rate = {name: one.written / (rounds + 1) / seconds[name] for name, one in ways.items()}
    found = {f"rate.draft.{name}": value for name, value in rate.items()}
    for name, one in ways.items():
        if one.engine.drafter:
            tally = one.engine.drafter.tally
            found[f"accepted.draft.{name}"] = tally.kept / max(1, tally.judged)
            found[f"ratio.draft.{name}"] = rate[name] / rate["none"]
    return found
