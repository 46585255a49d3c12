"""Abacus embeddings: are numbers of 20 digits added after training on 10?

Sums of two numbers written with the last digit first, as in the paper; the loss is on the sum. Metric: share of sums of
two numbers of 11 to 20 digits that are right in every digit, greedily. Null: the same model with RoPE alone. Its cost
on text is measured as that of all parts.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from component_ways.ground import Ground, bits_per_byte, teach, text_windows
from nano_think.core.rng import branch
from nano_think.data.loader import Batches
from nano_think.experts import count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import Chat, ChatShape, build_chat
from nano_think.parts.digits import DigitsConfig
from nano_think.training.loop import seed_everything
from nano_think.training.objectives.chat import ChatObjective, Marks

PLUS, EQUALS, ENDS, START = 10, 11, 12, 13
VOCABULARY = 14
TRAINED, LONGEST, ASKED, BATCH = 10, 20, 200, 64
# A start token, two numbers, two signs, a sum of one digit more, its end.
WINDOW = 3 * TRAINED + 5


def write_sum(a: int, b: int) -> list[int]:
    """Ids of START a + b = c ENDS, every number with its last digit first."""

    def digits(n: int) -> list[int]:
        return [int(digit) for digit in reversed(str(n))]

    return [START, *digits(a), PLUS, *digits(b), EQUALS, *digits(a + b), ENDS]


def draw_number(dice: np.random.Generator, length: int) -> int:
    """A number of exactly so many digits."""
    first = dice.integers(1, 10)
    return int("".join(map(str, [first, *dice.integers(0, 10, length - 1)])))


class Sums(Batches):
    """One sum a window, filled with start tokens, made from its place alone; lengths are drawn evenly and apart."""

    def __init__(self, batch: int, seed: int):
        super().__init__(2**20, WINDOW, batch, seed, recut=False)

    def distinct(self) -> Iterator[np.ndarray]:
        return (self._window(0, place) for place in range(self.windows_per_epoch))

    def repeats(self, steps: int) -> int:
        return 0

    def _window(self, epoch: int, place: int) -> np.ndarray:
        dice = np.random.default_rng(branch(self.seed, "sums", epoch, place))
        a, b = (draw_number(dice, int(dice.integers(1, TRAINED + 1))) for _ in range(2))
        window, ids = np.full(self.window + 1, START, dtype=np.int64), write_sum(a, b)
        window[: len(ids)] = ids
        return window


def build(seed: int, parts: dict[str, Any], width: int, layers: int) -> Chat:
    seed_everything(seed)
    table = normalise_table(torch.randn(VOCABULARY, width))
    head = LanguageHead(table, torch.full((VOCABULARY,), -math.log(VOCABULARY)))
    shape = ChatShape(
        width=width, vocabulary=VOCABULARY, window=128, start_token=START, parts=parts,
        backbone=TransformerConfig(n_layers=layers, n_heads=4, inner=2 * width),
    )  # fmt: skip
    model = build_chat(shape, head)
    for part in model.parts.values():
        part.study([str(n).encode() if n < PLUS else b"" for n in range(VOCABULARY)], head)  # type: ignore[operator]
    return model


def measure(ground: Ground, seed: int, tokens: int, width: int = 64, layers: int = 3) -> dict[str, Any]:
    config = DigitsConfig(places=TRAINED + LONGEST + 2, shift=LONGEST + 1)
    taught, trained = {}, {}
    for name, parts in {"off": {}, "on": {"digits": config}}.items():
        model = taught[name] = build(seed, parts, width, layers)
        objective = ChatObjective(model, Marks(START, EQUALS, ENDS))
        trained[name] = teach(model, Sums(BATCH, seed), tokens, seed, objective, rate=1.0)
    right = {name: {n: right_sums(one, n) for n in (5, 10, 12, 15, 20)} for name, one in taught.items()}
    longer = {name: right_sums(one, None) for name, one in taught.items()}
    rates = on_text(ground, seed, tokens // 15)
    return {
        "metric": "sums of 11 to 20 digits right, trained on up to 10", "better": "higher",
        "value": longer["on"], "null": "RoPE alone", "null_value": longer["off"],
        "parameters": count_parameters(taught["on"].parts["digits"]) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1, "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {"right_by_digits": right, "asked": ASKED, "bits_per_byte": rates},
    }  # fmt: skip


def on_text(ground: Ground, seed: int, tokens: int) -> dict[str, float]:
    """Bits per byte of the base after learning from so many tokens of text, with the part and without it."""
    rates = {}
    for name, parts in {"off": {}, "on": {"digits": DigitsConfig()}}.items():
        model, _ = ground.chat(seed, parts)
        teach(model, text_windows(ground, seed), tokens, seed)
        rates[name] = bits_per_byte(model, ground.documents("test", 20_000), ground.window)
    return rates


@torch.no_grad()
def right_sums(model: Chat, length: int | None) -> float:
    """The share of sums of two numbers of so many digits (none: of 11 to 20, drawn) that are right to the end."""
    dice, right = np.random.default_rng(branch(7, length or 0)), 0
    for _ in range(ASKED):
        digits = length or int(dice.integers(TRAINED + 1, LONGEST + 1))
        ids = write_sum(draw_number(dice, digits), draw_number(dice, digits))
        begun = ids.index(EQUALS) + 1
        right += answer(model, ids[:begun], len(ids) - begun) == ids[begun:]
    return right / ASKED


def answer(model: Chat, ids: list[int], length: int) -> list[int]:
    """The likeliest tokens, one after the other."""
    cache, said = model.start(1, len(ids) + length), list[int]()
    routed = model.extend(torch.tensor([ids]), cache)
    while len(said) < length:
        said.append(int(_likeliest(model, routed)))
        if said[-1] == ENDS:
            break
        routed = model.extend(torch.tensor([said[-1:]]), cache)
    return said


def _likeliest(model: Chat, routed: Any) -> Tensor:
    return model.logits(routed.last())[0, -1].argmax()
