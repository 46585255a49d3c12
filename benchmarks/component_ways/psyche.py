"""The psyche: does turning the superego up break the rule less often, for less than a temperature does it?

The rule: no run of three tokens twice in a text. Null: of the temperatures that cost at most 3% bits per byte and a
prompt that asks for it, whichever breaks it least; and for the language, one plain adapter of the three modes'
parameters. The modes are trained on plain text, in which all that is said is learned, so id and ego differ by their
draws of windows alone. Turned up by 4 a mode goes twice as far as it has learned. Pressure, severity, rate and that
were chosen by seed 1 (docs/LOG.md).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from component_ways.ground import Ground, bits_per_byte, each_target, teach, text_windows
from nano_think.evaluation.reading import Document
from nano_think.experts import count_parameters
from nano_think.models.chat import Chat, start_steered
from nano_think.parts import Dials
from nano_think.parts.psyche import PsycheConfig

TURNS = (-4.0, -2.0, 0.0, 2.0, 4.0)
TEMPERATURES = (1.0, 1.1, 1.2, 1.25, 1.3, 1.35)
ASKED = "Never say the same words twice. Every word of this text is new.\n\n"
TEXTS, PROMPT, LENGTH, RULE, MOST_COST = 192, 16, 80, 3, 1.03


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    documents = ground.documents("test", 20_000)
    taught, trained = {}, {}
    for name, part in {
        "off": None,
        "on": PsycheConfig(rule=RULE, pressure=1.0, severity=30.0, beyond=0.25),
        "null": PsycheConfig(kind="static", pressure=0.0),
    }.items():
        taught[name], _ = ground.chat(seed, {"psyche": part} if part else {})
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed, rate=1.0)
    rates = {name: bits_per_byte(model, documents, ground.window) for name, model in taught.items()}
    model, doses = taught["on"], {}
    for turn in TURNS:
        dials = {"superego": turn}
        rate = bits_per_byte(model, documents, ground.window, dials)
        doses[turn] = {"broken": broken(write(model, documents, seed, dials)), "bits_per_byte": rate}
    heats = by_temperature(taught["off"], documents, ground.window, seed)
    told = ground.tokenizer().encode(ASKED)
    asked = broken(write(taught["off"], documents, seed, {}, told=told))
    cheap = [one for one in heats.values() if one["bits_per_byte"] <= MOST_COST * heats[1.0]["bits_per_byte"]]
    id_text = write(model, documents, seed, {"id": 4.0})
    return {
        "metric": "rule broken at superego +4, relative to 0", "better": "lower",
        "value": doses[4.0]["broken"] / doses[0.0]["broken"],
        "null": "best temperature for at most 3% bits per byte, or a prompt",
        "null_value": min(asked, *(one["broken"] for one in cheap)) / heats[1.0]["broken"],
        "parameters": count_parameters(model.parts["psyche"]) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1,
        "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {
            "bits_per_byte": rates, "against_plain_adapter": rates["on"] / rates["null"] - 1, "doses": doses,
            "temperatures": heats, "prompt": asked,
            "cost_at_4": doses[4.0]["bits_per_byte"] / doses[0.0]["bits_per_byte"] - 1,
            "distinct_pairs": {"id +4": distinct(id_text), "0": distinct(write(model, documents, seed, {}))},
            "domains": specialisation(model, documents, ground.window),
        },
    }  # fmt: skip


def by_temperature(model: Chat, documents: Sequence[Document], window: int, seed: int) -> dict[float, dict[str, float]]:
    """The share of draws that break the rule, and the bits per byte, at each temperature."""
    return {
        temperature: {
            "broken": broken(write(model, documents, seed, {}, temperature)),
            "bits_per_byte": bits_per_byte(model, documents, window, temperature=temperature),
        }
        for temperature in TEMPERATURES
    }


@torch.no_grad()
def write(
    model: Chat, documents: Sequence[Document], seed: int, dials: Dials, temperature: float = 1.0,
    told: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """Texts, (N, S): the beginnings of documents, one after the other, and what the model draws behind them.

    told: what the model reads behind the start token of each, before the rest of it, and what is not part of the text.
    """
    dice = torch.Generator().manual_seed(seed)
    begun = [one.tokens[:PROMPT] for one in documents if len(one.tokens) > PROMPT]
    text_NS = torch.from_numpy(np.stack([begun[n % len(begun)] for n in range(TEXTS)]))
    told_NS = torch.tensor(told, dtype=text_NS.dtype).expand(TEXTS, -1)
    cache = start_steered(model, TEXTS, len(told) + PROMPT + LENGTH, dials)
    routed = model.extend(torch.cat([text_NS[:, :1], told_NS, text_NS[:, 1:]], dim=1), cache)
    start = torch.tensor([model.start_token])
    for _ in range(LENGTH):
        logits_NV = model.logits(routed.last())[:, 0].index_fill(1, start, float("-inf")) / temperature
        token_N1 = torch.multinomial(logits_NV.softmax(-1), 1, generator=dice)
        text_NS = torch.cat([text_NS, token_N1], dim=1)
        routed = model.extend(token_N1, cache)
    return text_NS


def runs(text: list[int], length: int) -> list[tuple[int, ...]]:
    return [tuple(text[at : at + length]) for at in range(len(text) - length + 1)]


def broken(text_NS: Tensor) -> float:
    """The share of drawn tokens that end a run which stood in the text before."""
    count = 0
    for text in text_NS.tolist():
        found = runs(text, RULE)
        count += sum(run in set(found[:at]) for at, run in enumerate(found) if at + RULE > PROMPT)
    return count / (TEXTS * LENGTH)


def distinct(text_NS: Tensor) -> float:
    """The share of different pairs among all that were drawn."""
    pairs = [pair for text in text_NS[:, PROMPT:].tolist() for pair in runs(text, 2)]
    return len(set(pairs)) / len(pairs)


def specialisation(model: Chat, documents: Sequence[Document], window: int) -> dict[str, Any]:
    """The mean weights of the modes by domain, and how likely mean weights as far apart are if domains say nothing:
    documents drawn anew 999 times.
    """
    weights_SK = []
    for one in documents:
        seen: list[Tensor] = []

        def see(inputs: Tensor, targets: Tensor, counted: Tensor, routed: Any, seen: list[Tensor] = seen) -> None:
            seen.append(routed.weights[counted])

        each_target(model, [one], window, see)
        weights_SK.append(torch.cat(seen).mean(dim=0).numpy())
    means, domains = np.stack(weights_SK), np.array([one.domain for one in documents])

    def apart(labels: np.ndarray) -> float:
        groups = np.stack([means[labels == name].mean(axis=0) for name in np.unique(labels)])
        return float(groups.std(axis=0).sum())

    dice = np.random.default_rng(0)
    others = [apart(dice.permutation(domains)) for _ in range(999)]
    by_domain = {name: means[domains == name].mean(axis=0).tolist() for name in np.unique(domains)}
    return {"weights": by_domain, "p": (1 + sum(other >= apart(domains) for other in others)) / 1000}
