"""A step of the router's training with the experts computed anew, and with what they gave read back from the disk.

    python benchmarks/router.py [--preset micro] [--threads 1 2] [--fusion hidden probability] [--dtype auto] [--json]

Models, windows and batches of a preset, with random weights, over random tokens: a step's time does not depend on what
they learned. A step is forward, backward, clipping and optimiser, as the training takes it. The ways take turns:

- computed_anew: experts and head are computed.
- read_back: the experts' hidden states are read, and over distributions their nats. The losses are the very same.
- read_back_logits, where hidden states are weighed: their logits are read too, so that the head is not needed. The
  losses are the same to 1e-3; `largest_difference` is what was found. Where matrix products are in bf16, so are the
  head's logits, which are rounded eight times as coarsely as the kept ones.

Anything else ends with an error. `ratios` holds, by fusion, that of the fastest way, the smallest over the numbers of
threads. Times are milliseconds per step. Those of `build` are per window: computing the experts, which a first epoch
does anyway (and logits, where they are kept), and writing it all.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import medians, take_turns
from torch import Tensor

from nano_think.core.device import ComputeConfig, pick_dtype, set_up
from nano_think.data.loader import Windows
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.checkpoint import ModelShape, build_mixture
from nano_think.models.think import NanoThink
from nano_think.stages.pipeline import PipelineConfig, load
from nano_think.training.objectives.router import RouterObjective
from nano_think.training.optim import build_optimizers
from nano_think.training.streams import WindowCache, bytes_per_window

BATCHES = 4
CPU = torch.device("cpu")


def build(config: PipelineConfig) -> NanoThink:
    torch.manual_seed(0)
    V, D = config.tokenizer.vocab_size, config.space.width
    experts = {name: getattr(config.experts, name) for name in config.members}
    shape = ModelShape(
        width=D,
        vocabulary=V,
        window=config.space.window,
        start_token=V - 1,
        router=config.router.model,
        experts=experts,
    )
    head = LanguageHead(normalise_table(torch.randn(V, D)), torch.randn(V).log_softmax(0))
    model = build_mixture(shape, head)
    for value in model.experts.parameters():
        if not value.any():
            # Experts that say nothing would agree with anything.
            torch.nn.init.normal_(value, std=0.05)
    return model


class Training:
    """One way to train a router: `step` takes the next batch."""

    def __init__(self, model: NanoThink, config: PipelineConfig, batches: list[Tensor], half: bool):
        train = config.router
        self.objective = RouterObjective(model, train.expert_dropout, train.entropy).train()
        self.optimizers = build_optimizers(self.objective, train.train.optim)
        self.batches, self.clip, self.taken, self.half = batches, train.train.optim.clip or float("inf"), 0, half

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def loss(self, batch: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        with self.autocast():
            return torch.stack(list(self.objective(batch, 0.5).values())).sum()

    def step(self) -> None:
        self.loss(self.batches[self.taken % BATCHES], self.taken).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.objective.parameters() if p.requires_grad], self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.taken += 1


def measure(config: PipelineConfig, wanted: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All ways with the threads that are set now."""
    half = pick_dtype(wanted.dtype, CPU) == "bfloat16"
    window, batch = config.space.window, wanted.batch or config.router.train.batch
    tokens = np.random.default_rng(0).integers(0, config.tokenizer.vocab_size - 1, (BATCHES * batch + 1) * window + 1)
    windows = Windows(tokens, window, batch, seed=0, recut=False)
    batches = [torch.from_numpy(windows.batch(step)) for step in range(BATCHES)]
    model = build(config)
    anew = Training(model, config, batches, half)
    found, ways = {}, {"computed_anew": anew.step}
    with_logits = {"read_back": False} | ({"read_back_logits": True} if model.fusion == "hidden" else {})
    for way, logits in with_logits.items():
        kept = Training(model, config, batches, half)
        found[way] = fill(kept, windows, logits, folder / way)
        apart = max(float((anew.loss(one, 7) - kept.loss(one, 7)).detach().abs()) for one in batches)
        cache = kept.objective.cache
        assert cache
        if apart > (1e-3 if logits else 0) or cache.tally.read != BATCHES * batch:
            sys.exit(f"benchmark: {way}: what was kept does not give the same losses, they differ by {apart:.2g}")
        found[way]["largest_difference"], ways[way] = apart, kept.step
    times = medians(take_turns(ways, wanted.rounds, warm_up=2))
    for way, one in found.items():
        one |= {"ms": 1e3 * times[way], "ratio": times["computed_anew"] / times[way]}
    return {
        "ratio": max(one["ratio"] for one in found.values()),
        "computed_anew": 1e3 * times["computed_anew"],
        **found,
    }


def fill(kept: Training, windows: Windows, with_logits: bool, folder: Path) -> dict[str, Any]:
    """Give a training a cache that holds all its batches; what that took."""
    objective, add = kept.objective, 0.0
    with torch.no_grad(), kept.autocast():
        parts = objective.read_experts(kept.batches[0], with_logits)
        cache = WindowCache(folder, windows.distinct(), parts, {})
        started = time.perf_counter()
        for tokens_BT1 in kept.batches:
            parts = objective.read_experts(tokens_BT1, with_logits)
            began = time.perf_counter()
            cache.keep(tokens_BT1, parts)
            add += time.perf_counter() - began
        seconds = time.perf_counter() - started
    objective.remember(cache, with_logits)
    objective.begin()
    per_window = 1e3 / (BATCHES * len(kept.batches[0]))
    build = {"experts": per_window * (seconds - add), "write": per_window * add}
    return {"build": build, "megabytes_per_window": bytes_per_window(parts) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--fusion", nargs="+", choices=["hidden", "probability"], default=["hidden", "probability"])
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of matrix products")
    parser.add_argument("--batch", type=int, default=0, help="windows per step; 0 is the preset's")
    parser.add_argument("--vocab-size", type=int, default=0, help="words of the head; 0 is the preset's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    wanted, found = parser.parse_args(), {}
    for threads in wanted.threads:
        set_up(ComputeConfig(device="cpu", threads=threads), CPU)
        for fusion in wanted.fusion:
            words = {"tokenizer": {"vocab_size": wanted.vocab_size}} if wanted.vocab_size else {}
            config = load(wanted.preset, {"router": {"model": {"fusion": fusion}}}, words)
            with tempfile.TemporaryDirectory() as folder:
                one = found[f"{fusion}, {threads} thread(s)"] = measure(config, wanted, Path(folder))
            print(f"{wanted.preset}, {fusion}, {threads} thread(s): {one['computed_anew']:.1f} ms anew", flush=True)
            for way in (name for name in ("read_back", "read_back_logits") if name in one):
                told = one[way]
                print(f"    {way} {told['ms']:.1f} ms: {told['ratio']:.2f}x, losses within"
                      f" {told['largest_difference']:.1g}; to build, per window: {told['build']['experts']:.1f} ms of"
                      f" experts and {told['build']['write']:.2f} ms of writing {told['megabytes_per_window']:.2f} MB",
                      flush=True)  # fmt: skip
    ratios = {
        fusion: min(one["ratio"] for name, one in found.items() if name.startswith(fusion)) for fusion in wanted.fusion
    }
    if wanted.json:
        print(json.dumps({"ratios": ratios, "preset": wanted.preset, "dtype": wanted.dtype, "measured": found}))


if __name__ == "__main__":
    main()
