"""The energy head: does it tell the model's own writing from what was written?

Metric: AUROC of the energy of 64 tokens, of texts against the model's own draws behind the same 64 tokens. Null: the
mean log-probability that the model gives the 64 tokens, whichever way round it tells them apart better. Both models
learn at the base's whole rates: the head is made from nothing.
"""

from typing import Any

import numpy as np
import torch

from component_ways.ground import Ground, auroc, bits_per_byte, teach, text_windows
from nano_think.experts import count_parameters
from nano_think.models.chat import Chat
from nano_think.parts.energy import EnergyConfig

TEXTS, BEFORE = 512, 64


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    config, taught, trained = EnergyConfig(length=64), {}, {}
    for name in ("off", "on"):
        taught[name], _ = ground.chat(seed, {"energy": config} if name == "on" else {})
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed, rate=1.0)
    test, model = ground.documents("test", 20_000), taught["on"]
    rates = {name: bits_per_byte(one, test, ground.window) for name, one in taught.items()}
    found = tell_apart(model, whole_texts(ground, config.length), config.length)
    likelihood = auroc(found["own_log_p"], found["log_p"])
    return {
        "metric": "AUROC against its own samples", "better": "higher",
        "value": auroc(found["energy"], found["own_energy"]),
        "null": "mean log-probability", "null_value": max(likelihood, 1 - likelihood),
        "parameters": count_parameters(model.parts["energy"]) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1, "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {"bits_per_byte": rates, "texts": TEXTS, "reversed": likelihood < 0.5},
    }  # fmt: skip


def whole_texts(ground: Ground, length: int) -> torch.Tensor:
    """Pieces of test documents, (N, BEFORE + length), none across a border."""
    size, pieces = BEFORE + length, []
    for one in ground.documents("test", 400_000):
        pieces += [one.tokens[at : at + size] for at in range(0, len(one.tokens) - size + 1, size)]
    drawn = np.random.default_rng(0).permutation(len(pieces))[:TEXTS]
    return torch.from_numpy(np.stack([pieces[n] for n in drawn]))


@torch.no_grad()
def tell_apart(model: Chat, text_NS: torch.Tensor, length: int) -> dict[str, np.ndarray]:
    """Energy and mean log-probability of the last tokens of each text, and of the model's own in their place, (N)."""
    found: dict[str, list[np.ndarray]] = {}
    for part_NS in text_NS.split(64):
        begin_NB = part_NS[:, :-length]
        drawn_NL, _ = model.write(begin_NB, length)
        for prefix, whole_NS in (("", part_NS), ("own_", torch.cat([begin_NB, drawn_NL], dim=1))):
            routed = model(whole_NS)
            nll_NL = model.nll(routed, whole_NS.roll(-1, dims=1))[:, -length - 1 : -1]
            energy_NL = model.judge(routed)["energy"][:, -length:]
            found.setdefault(f"{prefix}energy", []).append(energy_NL.mean(dim=1).numpy())
            found.setdefault(f"{prefix}log_p", []).append(-nll_NL.mean(dim=1).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
