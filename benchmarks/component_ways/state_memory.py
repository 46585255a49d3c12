"""State memory: is a fact recalled that was told 64 segments ago, where the body sees its own segment alone?

Metric: share of facts told 64 segments before that come back, of texts with a fact in about every eighth segment. Null:
the same part with one column, a queue of as many summaries as the columns can hold: equal bytes. Both are trained on
short texts, then on long ones, with the same steps. Its cost is that of the settings it has by itself, on text.

B batch, T tokens, N texts
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
from nano_think.evaluation.reading import Document
from nano_think.experts import count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import Chat, ChatShape, build_chat
from nano_think.parts.state_memory import StateMemoryConfig
from nano_think.training.loop import seed_everything
from nano_think.training.objectives.chat import ChatObjective, Marks

START, TELL, ASK = range(3)
NOISE, VALUES, KEYS = range(3, 19), range(19, 35), range(35, 115)
VOCABULARY = 115
SEGMENT, TOLD, SHORT, LONG = 8, 1 / 8, 18, 65
GAPS = (1, 4, 16, 64)
COLUMNS, BASE = 4, 4
# Three columns of at most three and the last one of four.
QUEUE = (COLUMNS - 1) * (BASE - 1) + BASE


class Facts(Batches):
    """Texts of segments: [noise, TELL, key, value, noise, ASK, key, value], noise in the place of what is not told or
    not known yet; made from their place alone.
    """

    def __init__(self, segments: int, batch: int, seed: int):
        super().__init__(2**20, segments * SEGMENT, batch, seed, recut=False)

    def distinct(self) -> Iterator[np.ndarray]:
        return (self._window(0, place) for place in range(self.windows_per_epoch))

    def repeats(self, steps: int) -> int:
        return 0

    def _window(self, epoch: int, place: int) -> np.ndarray:
        dice = np.random.default_rng(branch(self.seed, "facts", epoch, place))
        return np.append(write_facts(dice, self.window // SEGMENT), START)


def write_facts(dice: np.random.Generator, segments: int, asked: int | None = None) -> np.ndarray:
    """The ids of a text; asked: nothing is asked before its last segment, and there what was told in that one."""
    ids = dice.choice(NOISE, (segments, SEGMENT))
    ids[0, 0] = START
    key_of, facts = dice.permutation(KEYS), []
    for n in range(segments):
        known = facts[:]
        if dice.random() < TOLD or n == (asked or 0):
            facts.append((key_of[n], dice.choice(VALUES), n))
            ids[n, 1:4] = TELL, *facts[-1][:2]
        if known and asked is None:
            ids[n, 5:] = ASK, *known[dice.integers(len(known))][:2]
    if asked is not None:
        ids[-1, 5:] = ASK, *next(fact for fact in facts if fact[2] == asked)[:2]
    return ids.reshape(-1)


class Short(Chat):
    """A chat model whose body sees its own segment alone."""

    def _read(self, tokens_BT: Tensor, documents_BT: Tensor, seen_BT: Tensor) -> Tensor:
        own_T = torch.arange(tokens_BT.shape[1]) // SEGMENT
        return super()._read(tokens_BT, documents_BT, own_T.expand_as(tokens_BT))


class Recall(ChatObjective):
    """The loss of what is asked alone."""

    def _said(self, tokens_BT1: Tensor) -> Tensor:
        return asked(tokens_BT1[:, :-1])


def asked(tokens_BT: Tensor) -> Tensor:
    """True at the keys that are asked for: a value comes next."""
    found_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    found_BT[:, 1:] = tokens_BT[:, :-1] == ASK
    return found_BT


def build(seed: int, config: StateMemoryConfig | None, width: int = 64) -> Chat:
    seed_everything(seed)
    table = normalise_table(torch.randn(VOCABULARY, width))
    head = LanguageHead(table, torch.full((VOCABULARY,), -math.log(VOCABULARY)))
    shape = ChatShape(
        width=width, vocabulary=VOCABULARY, window=LONG * SEGMENT, start_token=START,
        parts={"state_memory": config} if config else {},
        backbone=TransformerConfig(n_layers=2, n_heads=4, inner=2 * width),
    )  # fmt: skip
    plain = build_chat(shape, head)
    return Short(head, plain.backbone, START, dict(plain.parts.items()))  # type: ignore[arg-type]


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    shape = {"segment": SEGMENT, "slots": 8, "cut": 0.0}
    ways = {
        "on": StateMemoryConfig(columns=COLUMNS, base=BASE, **shape),
        "null": StateMemoryConfig(columns=1, base=QUEUE, **shape), "without": None,
    }  # fmt: skip
    recalled = {}
    for name, config in ways.items():
        model = build(seed, config)
        objective = Recall(model, Marks(START, -1, -1))
        # Without a memory there is nothing to learn but which tokens are values.
        budget = tokens if config else tokens // 10
        teach(model, Facts(SHORT, 32, branch(seed, "short")), budget * 4 // 5, seed, objective, rate=1.0)
        teach(model, Facts(LONG, 8, branch(seed, "long")), budget // 5, seed, objective, rate=0.5)
        recalled[name] = {gap: recall(model, gap) for gap in GAPS}
    return {
        "metric": "facts recalled over 64 segments", "better": "higher", "value": recalled["on"][64],
        "null": "a queue of equal bytes", "null_value": recalled["null"][64],
        **cost(ground, seed, {"recalled": recalled, "chance": 1 / len(VALUES), "summaries": QUEUE}),
    }  # fmt: skip


@torch.no_grad()
def recall(model: Chat, gap: int, texts: int = 256) -> float:
    """The share of values that are the likeliest token of all where they are asked for, `gap` segments behind."""
    dice = np.random.default_rng(branch(7, gap))
    text_NT = torch.from_numpy(np.stack([write_facts(dice, gap + 1, asked=0) for _ in range(texts)]))
    found = [
        model.head.logits(model(part_NT[:, :-1]).hidden[:, -1]).argmax(-1) == part_NT[:, -1]
        for part_NT in text_NT.split(32)
    ]
    return float(torch.cat(found).float().mean())


def cost(ground: Ground, seed: int, more: dict[str, Any], tokens: int = 200_000) -> dict[str, Any]:
    """Parameters, operations and bits per byte on text, with the part and without it, and what it brings there."""
    taught, trained = {}, {}
    for name, parts in {"off": {}, "on": {"state_memory": StateMemoryConfig()}}.items():
        taught[name], _ = ground.chat(seed, parts)
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed)
    documents = ground.documents("test", 20_000)
    rates = {name: bits_per_byte(model, documents, ground.window) for name, model in taught.items()}
    own = count_parameters(taught["on"].parts["state_memory"])
    return {
        "parameters": own / count_parameters(taught["off"]), "flops": trained["on"] / trained["off"] - 1,
        "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": more | {"bits_per_byte": rates, "beyond_window": beyond(taught["on"], ground)},
    }  # fmt: skip


@torch.no_grad()
def beyond(model: Chat, ground: Ground) -> dict[str, float]:
    """Nats per token behind the first window of long documents: with nothing, with what was read before, and with what
    was read of another document.
    """
    long = [one for one in ground.documents("test", 100_000) if len(one.tokens) > 2 * ground.window]
    totals, count = {"nothing": 0.0, "before": 0.0, "of_another": 0.0}, 0
    for n, one in enumerate(long):
        before = {"nothing": None, "before": one, "of_another": long[n - 1]}
        for name, source in before.items():
            nats, tokens = later_nats(model, one, source, ground.window)
            totals[name] += nats
        count += tokens
    return {name: nats / max(1, count) for name, nats in totals.items()} | {"tokens": count}


def later_nats(model: Chat, one: Document, before: Document | None, window: int) -> tuple[float, int]:
    """Nats of the tokens behind the first window, and how many; before each window, as much of `before` is kept."""
    text, nats, count, kept = torch.from_numpy(one.tokens), 0.0, 0, {}
    for first in range(window, len(text) - 1, window):
        inputs_1T = text[None, first : first + window][:, : len(text) - 1 - first]
        targets_1T = text[None, first + 1 : first + 1 + inputs_1T.shape[1]]
        earlier = torch.from_numpy(before.tokens)[first - window : first] if before else text[:0]
        kept = model.fold(earlier, kept) if len(earlier) else kept
        cache = model.start(1, window)
        model.carry(cache, kept)
        nats += float(model.nll(model.extend(inputs_1T, cache), targets_1T).sum())
        count += inputs_1T.shape[1]
    return nats, count
