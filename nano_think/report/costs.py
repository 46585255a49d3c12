"""What each row of the ablation table costs: parameters, training FLOPs, time, and the longest way to it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

BEFORE = ("ingest", "tokenizer", "tokens", "embedding")
"""The stages that every model waits for."""


def costs(
    members: Sequence[str], parameters: Mapping[str, int], flops: Mapping[str, float], seconds: Mapping[str, float],
    rivals: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Scorer -> {parameters, flops, seconds, critical}, from the same by training.

    parameters: that are trained, without the shared table. seconds: of its trainings, each counted in full. critical:
    from text to the model if the experts train side by side: what comes before, the longest expert, the router.
    rivals: the members of other mixtures, by scorer, which is also the name of their router's training.
    """
    before = sum(seconds.get(name, 0.0) for name in BEFORE)

    def cost(side_by_side: Sequence[str], *after: str) -> dict[str, float]:
        parts = (*side_by_side, *after)
        longest = max(seconds[name] for name in side_by_side)
        return {
            "parameters": sum(parameters.get(name, 0) for name in parts),
            "flops": sum(flops.get(name, 0.0) for name in parts),
            "seconds": sum(seconds[name] for name in parts),
            "critical": before + longest + sum(seconds[name] for name in after),
        }

    found = {name: cost([name]) for name in members}
    found |= {name: cost(members) for name in ("uniform", "static")}
    found["mixture"] = cost(members, "router")
    found |= {name: cost(theirs, name) for name, theirs in rivals.items()}
    for name in members if len(members) > 1 else ():
        found[f"without_{name}"] = cost([other for other in members if other != name], "router")
    kept = cost(members, "router", *(["memory"] if "memory" in seconds else []))
    found |= {"persistent": kept, "persistent_shuffled": kept}
    found |= {"scratch": found["mixture"], "scratch_shuffled": found["mixture"]}
    trained = ("scratch_trained", "persistent_slots", "scratch_slots")
    found |= {name + ending: kept for name in trained for ending in ("", "_shuffled")}
    if "dense" in flops:
        found["dense"] = cost(["dense"])
    return found


def matched(dense: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(what, the mixture's, the dense control's) of what was made equal; empty without a control."""
    wanted = dense.get("mixture") or {}
    pairs = [("trained parameters", "parameters"), ("training FLOPs", "flops")]
    return [(what, wanted[key], dense[key]) for what, key in pairs if key in wanted and key in dense]
