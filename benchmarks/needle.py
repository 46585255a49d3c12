"""A needle in a haystack: a value told once in a long text of random words, asked for at the end.

    python benchmarks/needle.py [--lengths 1024 4096 8192 16384] [--train 64 256 1024 4096] [--asked 100] [--json]

A chat backbone is trained on the task alone, as a chat is: the loss is on the answers. A haystack holds many pairs of
a key and a value. Of many of them the user asks in training and of one, at a random depth, in the test; the assistant
says the key and its value, and has found the needle if both are the likeliest tokens. Guessing among all values is
right in 1 of 64 tests, and guessing among those that the haystack holds in 1 of 16.

Training begins with what needs no long text (the assistant says three pairs over and over, in 24 tokens), and goes
through the lengths in turn; each length tested stands beside whether anything as long was trained on. Then a step at
the longest trained length, with and without gradient checkpointing: bytes that autograd keeps between the passes, and
seconds, in turns.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import medians, take_turns
from accelerate import Accelerator

from nano_think.core.device import ComputeConfig, set_up
from nano_think.core.rng import branch
from nano_think.data.loader import Batches
from nano_think.evaluation.chat.scores import Score
from nano_think.experts.transformer import TransformerConfig
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import Chat, ChatShape, build_chat
from nano_think.training.layers import checkpoint_layers
from nano_think.training.loop import TrainConfig, seed_everything, train
from nano_think.training.objectives.chat import ChatObjective, Marks
from nano_think.training.optim import OptimConfig

START, USER, USER_END, OPENS, ENDS = range(5)
KEYS, VALUES, WORDS = 64, 64, 123
FIRST_VALUE = 5 + KEYS
FIRST_WORD = FIRST_VALUE + VALUES
VOCABULARY = FIRST_WORD + WORDS
MARKS = Marks(START, OPENS, ENDS)
PIECE = 512
# A question and its answer: user, key, end, assistant, key, value, end.
TURN = 7
# Pairs in the haystacks of the test.
NEEDLES = 16
# Tokens of a step, at most one window of them longer than that.
STEP = 2048
# What the training begins with: tokens of a window, and pairs in it.
SHORT, PAIRS = 24, 3
# Peak learning rate, of matrices and of everything else.
RATE = 0.01


def haystack(dice: np.random.Generator, length: int, asked: int, needles: int) -> np.ndarray:
    """(length,) ids: random words with pairs of a key and a value at random places, then questions of some of them."""
    ids = np.empty(length, dtype=np.int64)
    hay = length - 2 - TURN * asked + 2
    ids[:2] = START, USER
    ids[2:hay] = dice.integers(FIRST_WORD, VOCABULARY, hay - 2)
    keys, values = dice.permutation(KEYS)[:needles] + 5, dice.integers(FIRST_VALUE, FIRST_WORD, needles)
    places = 2 + 2 * dice.permutation((hay - 2) // 2)[:needles]
    ids[places], ids[places + 1] = keys, values
    for turn in range(asked):
        at = hay + TURN * turn
        # The first question belongs to the message of the haystack.
        told = USER if turn else WORDS + FIRST_WORD - 1
        ids[at : at + TURN] = told, keys[turn], USER_END, OPENS, keys[turn], values[turn], ENDS
    return ids


def pairs_alone(dice: np.random.Generator, length: int) -> np.ndarray:
    """(length,) ids: a question of no meaning, and an answer of a few pairs, each drawn again and again."""
    ids, said = np.full(length, ENDS, dtype=np.int64), (length - 5) // 2
    keys, values = dice.permutation(KEYS)[:PAIRS] + 5, dice.integers(FIRST_VALUE, FIRST_WORD, PAIRS)
    drawn = dice.integers(0, PAIRS, said)
    ids[:5] = START, USER, FIRST_WORD, USER_END, OPENS
    ids[5 : 5 + 2 * said] = np.stack([keys[drawn], values[drawn]], axis=1).reshape(-1)
    return ids


class Haystacks(Batches):
    """Windows that are made when they are asked for, each from its place alone."""

    def __init__(self, window: int, batch: int, seed: int):
        super().__init__(2**20, window, batch, seed, recut=False)
        self.asked = min(KEYS, window // 16)

    def distinct(self) -> Iterator[np.ndarray]:
        return (self._window(0, place) for place in range(self.windows_per_epoch))

    def repeats(self, steps: int) -> int:
        return 0

    def _window(self, epoch: int, place: int) -> np.ndarray:
        dice = np.random.default_rng(branch(self.seed, "haystack", epoch, place))
        if self.window == SHORT:
            return pairs_alone(dice, SHORT + 1)
        return haystack(dice, self.window + 1, self.asked, self.asked)


def build(width: int, layers: int, heads: int) -> Chat:
    seed_everything(1)
    head = LanguageHead(
        normalise_table(torch.randn(VOCABULARY, width)), torch.full((VOCABULARY,), -math.log(VOCABULARY))
    )
    backbone = TransformerConfig(n_layers=layers, n_heads=heads, inner=2 * width, rope_base=500_000.0)
    shape = ChatShape(width=width, vocabulary=VOCABULARY, window=16_384, start_token=START, backbone=backbone)
    return build_chat(shape, head)


def learn(model: Chat, length: int, steps: int, seed: int, say: Any) -> float:
    """Train at one length; the seconds it took. As many tokens a step at any length, at least one window."""
    batch = max(1, STEP // length)
    rates = OptimConfig(matrix_rate=RATE, vector_rate=RATE, decay=0.3)
    config = TrainConfig(tokens=steps * batch * length, batch=batch, log_every=50, save_every=1e9, optim=rates)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        windows, accelerator = Haystacks(length, batch, seed), Accelerator(cpu=True)
        train(ChatObjective(model, MARKS), windows, config, accelerator, Path(folder), say, seed)
    return time.perf_counter() - started


@torch.inference_mode()
def find(model: Chat, length: int, tests: int) -> dict[str, Any]:
    """How often the needle of a haystack is found: it is read in pieces behind the cache, the answer is greedy."""
    model.eval()
    right = 0
    for number in range(tests):
        ids = haystack(np.random.default_rng(branch(99, length, number)), length, 1, NEEDLES)
        cache = model.start(1, length)
        for piece in torch.from_numpy(ids[None, :-3]).split(PIECE, dim=1):
            routed = model.extend(piece, cache)
        key = model.logits(routed.last())[:, -1:].argmax(-1)
        value = model.logits(model.extend(key, cache))[0, -1].argmax()
        right += [int(key), int(value)] == ids[-3:-1].tolist()
    found = Score(task="needle", kind="answer", right=right, items=tests, chance=1 / VALUES).to_dict()
    return {name: found[name] for name in ("score", "low", "high", "chance", "items")}


def checkpointing(width: int, layers: int, heads: int, length: int, rounds: int) -> dict[str, Any]:
    """Megabytes that autograd keeps between the passes of a step, and seconds of it, plain and checkpointed."""
    windows = torch.from_numpy(Haystacks(length, 1, 1).batch(0))
    steps, kept = {}, {}
    for name in ("plain", "checkpointed"):
        objective = ChatObjective(build(width, layers, heads).train(), MARKS)
        if name == "checkpointed":
            checkpoint_layers(objective)
        held: dict[int, int] = {}

        def note(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = objective(windows, 0.0)["assistant"]
        kept[name] = sum(held.values()) / 1e6
        del loss
        steps[name] = lambda objective=objective: objective(windows, 0.0)["assistant"].backward()
    return {"length": length, "megabytes": kept, "seconds": medians(take_turns(steps, rounds))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384])
    parser.add_argument("--train", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 150, 60, 40], help="of each length")
    parser.add_argument("--pairs", type=int, default=300, help="steps on pairs alone, before everything else")
    parser.add_argument("--asked", type=int, default=100, help="haystacks of each length")
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 2, 2], help="width, layers, heads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    set_up(ComputeConfig(threads=wanted.threads), torch.device("cpu"))
    model, result = build(*wanted.shape), {"shape": wanted.shape, "trained": [], "found": {}}

    def say(event: dict[str, Any]) -> None:
        if event["event"] == "step" and not wanted.json:
            print(f"  step {event['step']}/{event['steps']}  loss {event['loss']:.3f}", flush=True)

    lessons = [(SHORT, wanted.pairs), *zip(wanted.train, wanted.steps, strict=True)]
    for number, (length, steps) in enumerate(lessons):
        seconds = learn(model, length, steps, number + 1, say)
        result["trained"].append({"length": length, "steps": steps, "seconds": seconds})
    for length in wanted.lengths:
        found = find(model, length, wanted.asked) | {"trained": length <= max(wanted.train)}
        result["found"][length] = found
        if not wanted.json:
            beyond = "" if found["trained"] else ", longer than anything trained on"
            print(
                f"{length} tokens: {found['score']:.0%} ({found['low']:.0%} to {found['high']:.0%}){beyond}", flush=True
            )
    result["checkpointing"] = checkpointing(*wanted.shape, max(wanted.train), wanted.rounds)
    print(json.dumps(result) if wanted.json else f"{result['trained']}\n{result['checkpointing']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
