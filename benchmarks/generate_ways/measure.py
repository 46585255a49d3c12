"""What is measured in one process, with one number of threads."""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _timing import Step, medians, take_turns

from generate_ways.drafts import measure_drafts
from generate_ways.models import (
    START,
    Alone,
    build_llama,
    build_memories,
    build_model,
    build_shape,
    keys_like_a_model,
    keys_without_structure,
)
from nano_think.inference.engine import Engine
from nano_think.inference.remembering import Memories
from nano_think.inference.request import Memory, Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.think import NanoThink
from nano_think.nn.cache import Rows, Slot, Timeline

KEYS = {"memory": keys_like_a_model, "memory_random": keys_without_structure}
GREEDY = SamplingConfig(temperature=0.0)


class Words:
    """A tokenizer whose every token is two letters."""

    def token_bytes(self, token: int) -> bytes:
        return b"ab"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for, by name; rates (tokens per second) and ratios."""
    (threads,) = args.threads
    torch.set_num_threads(threads)
    drafts = measure_drafts(args) if "draft" in args.parts else {}
    return drafts | measure_random(args) if set(args.parts) - {"draft"} else drafts


def measure_random(args: argparse.Namespace) -> dict[str, Any]:
    """What needs no trained model."""
    shape = build_shape(args.preset, args.vocabulary)
    model = build_model(shape)
    prompt = (START, *torch.randint(1, args.vocabulary, (args.prompt - 1,)).tolist())
    ways: dict[str, Step] = {}
    if "peers" in args.parts:
        ways["hf_llama"] = llama(build_llama(shape), prompt, args.tokens)
        for name in model.names:
            ways[name] = engine(Alone(model, name), shape.window, prompt, args.tokens)
    ways["mixture"] = engine(model, shape.window, prompt, args.tokens)
    if "plain" in args.parts:
        ways["plain"] = plain(model, prompt, args.tokens)
    with tempfile.TemporaryDirectory(prefix="nano_think-memory-") as folder:
        if "memory" in args.parts:
            for name, keys in KEYS.items():
                key_SD = keys(args.entries, shape.width)
                memories = build_memories(Path(folder) / name, key_SD, args.vocabulary)
                ways[name] = engine(model, shape.window, prompt, args.tokens, memories)
        taken = take_turns(ways, args.rounds)
    found = {f"rate.{name}": args.tokens / seconds for name, seconds in medians(taken).items()}
    found |= ratios(taken)
    return found | (flat(model, args) if "flat" in args.parts else {})


def ratios(taken: dict[str, list[float]]) -> dict[str, float]:
    """Of rates, the median over the rounds: what slows a round down meets both sides of it."""
    pairs = {
        "transformer_vs_hf": ("transformer", "hf_llama"),
        "mixture_vs_plain": ("mixture", "plain"),
        "mixture_vs_transformer": ("mixture", "transformer"),
        "with_memory": ("memory", "mixture"),
        "with_memory_random": ("memory_random", "mixture"),
    }
    return {
        f"ratio.{name}": statistics.median(slow / fast for fast, slow in zip(taken[one], taken[other], strict=True))
        for name, (one, other) in pairs.items()
        if one in taken and other in taken
    }


def engine(
    model: NanoThink, window: int, prompt: tuple[int, ...], tokens: int, memories: Memories | None = None
) -> Step:
    one = Engine(model, Words(), window, rows=1, memories=memories)
    memory: Memory = "read" if memories else "off"
    request = Request(prompt=prompt, max_new_tokens=tokens, sampling=GREEDY, memory=memory)

    def run() -> None:
        assert sum(event.token is not None for event in one.stream(request)) == tokens

    return run


def llama(model: Any, prompt: tuple[int, ...], tokens: int) -> Step:
    prompt_1T = torch.tensor([prompt])

    @torch.inference_mode()
    def run() -> None:
        mask_1T = torch.ones_like(prompt_1T)
        made = model.generate(prompt_1T, attention_mask=mask_1T, do_sample=False, use_cache=True, max_new_tokens=tokens)
        assert made.shape[1] == len(prompt) + tokens

    return run


def plain(model: NanoThink, prompt: tuple[int, ...], tokens: int) -> Step:
    @torch.inference_mode()
    def run() -> None:
        text = list(prompt)
        for _ in range(tokens):
            text.append(int(model.logits(model(torch.tensor([text])).last())[0, -1].argmax()))

    return run


def flat(model: NanoThink, args: argparse.Namespace) -> dict[str, float]:
    """Time per token of the state-space expert at two contexts, and their ratio."""
    short, long = args.contexts
    taken = medians(take_turns({str(n): steps_at(model, n) for n in (short, long)}, 4 * args.rounds))
    found = {f"seconds_per_token.{name}": seconds / 32 for name, seconds in taken.items()}
    return found | {"ratio.flat": taken[str(short)] / taken[str(long)]}


def steps_at(model: NanoThink, context: int) -> Step:
    """32 tokens of the state-space expert behind so many."""
    expert, width = model.experts["state_space"], model.head.width
    cache, one, timeline = expert.start(1, context), expert.start(1, context), Timeline(1, context)
    with torch.inference_mode():
        expert.extend(torch.randn(1, context, width), timeline.append(torch.zeros(1, context, dtype=torch.long)), one)
        cache.join(one, Slot(0, 1, context))

    @torch.inference_mode()
    def run() -> None:
        for place in range(context, context + 32):
            expert.advance(torch.randn(1, width), Rows(torch.tensor([[0], [place], [0]])), cache)

    return run
