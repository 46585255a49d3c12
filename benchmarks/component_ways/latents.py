"""Continuous latents: are four tokens read back from one vector of 64 numbers?

Metric: share of the tokens of test documents that come back. Null: the 64 first principal components of the four
embeddings side by side, fitted on text of the training split, and the nearest embedding of each token's part. Both
models learn at the base's whole rates: the maps are made from nothing, and half of them is too little.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from component_ways.ground import Ground, bits_per_byte, teach, text_windows
from nano_think.experts import count_parameters
from nano_think.parts.latents import Latents, LatentsConfig, energy_score

PIECES = 3000


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    config, taught, trained = LatentsConfig(weight=1.0), {}, {}
    for name in ("off", "on"):
        taught[name], _ = ground.chat(seed, {"latents": config} if name == "on" else {})
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed, rate=1.0)
    test, model = ground.documents("test", 20_000), taught["on"]
    rates = {name: bits_per_byte(one, test, ground.window) for name, one in taught.items()}
    part = model.parts["latents"]
    assert isinstance(part, Latents)
    learned_PK, asked_PK = (pieces(ground, split, config.piece) for split in ("train", "test"))
    with torch.no_grad():
        torch.manual_seed(seed)
        back = {noise: float((part.read_back(asked_PK[None], model.head, noise)[0] == asked_PK).float().mean())
                for noise in (0.0, 0.3)}  # fmt: skip
        scores = draws(model, part, ground)
    return {
        "metric": "tokens of pieces of 4 that come back from 64 numbers", "better": "higher", "value": back[0.0],
        "null": "principal components",
        "null_value": by_components(model.head.table, learned_PK, asked_PK, config.latent),
        "parameters": count_parameters(part) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1, "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {"bits_per_byte": rates, "with_noise_0.3": back[0.3], "pieces": len(asked_PK), "energy_score": scores},
    }  # fmt: skip


def pieces(ground: Ground, split: str, length: int) -> Tensor:
    """Pieces of documents, (P, K)."""
    found = []
    for one in ground.documents(split, 4 * PIECES * length):
        text = one.tokens[1 : 1 + (len(one.tokens) - 1) // length * length]
        found += list(text.reshape(-1, length))
    drawn = np.random.default_rng(0).permutation(len(found))[:PIECES]
    return torch.from_numpy(np.stack([found[n] for n in drawn]))


def by_components(table_VD: Tensor, learned_PK: Tensor, asked_PK: Tensor, width: int) -> float:
    """The share of tokens that are nearest to their part of what `width` principal components keep."""
    learned_PE, asked_PE = (table_VD[tokens].flatten(1).double() for tokens in (learned_PK, asked_PK))
    mean_E = learned_PE.mean(dim=0)
    _, _, directions_EE = torch.linalg.svd(learned_PE - mean_E, full_matrices=False)
    kept_EL = directions_EE[:width].T
    back_PKD = (mean_E + (asked_PE - mean_E) @ kept_EL @ kept_EL.T).unflatten(1, (asked_PK.shape[1], -1))
    nearest_PK = torch.cdist(back_PKD, table_VD.double()[None].expand(len(back_PKD), -1, -1)).argmin(-1)
    return float((nearest_PK == asked_PK).float().mean())


def draws(model: Any, part: Latents, ground: Ground) -> dict[str, float]:
    """The mean energy score of the draws of the next piece's latent, and of draws made behind another text."""
    K, found = part.config.piece, []
    for one in ground.documents("test", 20_000):
        length = min(ground.window, (len(one.tokens) - 1) // K * K)
        if length:
            text = torch.from_numpy(one.tokens[None, : length + 1])
            mean_1ML, _ = part.encode(model.head.embed(text[:, 1:].unflatten(1, (-1, K))))
            found.append((model(text[:, :-1]).hidden[:, ::K][0], mean_1ML[0]))
    hidden_MD, came_ML = (torch.cat(parts)[None] for parts in zip(*found, strict=True))
    drawn = part._draws(hidden_MD)
    other = drawn.roll(drawn.shape[1] // 2, dims=1)
    return {
        "own": float(energy_score(drawn, came_ML).mean()),
        "of_another_text": float(energy_score(other, came_ML).mean()),
    }
