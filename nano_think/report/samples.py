"""Generated text, each token with the expert that carried it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.data import ReportData
from nano_think.report.palette import slot
from nano_think.report.tables import Cell, Table, code, number, table

FAINT, STRONG = 0.10, 0.55
SHOWN_SPACE = str.maketrans({"\n": "↵", "\t": "⇥", " ": "·"})


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text; `slot` is the colour of the expert with the largest weight, None without weights."""

    text: str
    slot: int | None
    alpha: str
    title: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and what followed it."""

    prompt: str
    tokens: Sequence[Token]
    settings: str
    carried: str
    weights: Table | None


def samples(data: ReportData) -> list[Sample]:
    """All samples; a text without tokens is shown without tints."""
    experts = scored.expert_names(data)
    return [_sample(given, experts) for given in data.samples]


def _sample(given: Mapping[str, Any], experts: list[str]) -> Sample:
    pieces = given.get("tokens") or [{"text": given.get("text") or "", "weights": ()}]
    tokens = [_token(piece, experts) for piece in pieces]
    said = [f"{key} {given[key]}" for key in ("seed", "temperature") if words.known(given.get(key))]
    rows = (
        [code(piece["text"].translate(SHOWN_SPACE)), *_weights(piece, experts)] for piece in given.get("tokens") or ()
    )
    return Sample(
        prompt=given.get("prompt") or "",
        tokens=tokens,
        settings=", ".join(said),
        carried=_carried(pieces, experts),
        weights=table("Routing weights, token by token", ["token", *map(words.name, experts)], rows),
    )


def _token(piece: Mapping[str, Any], experts: list[str]) -> Token:
    leader = _leader(piece, experts)
    if leader is None:
        return Token(piece["text"], None, "0", "")
    weights = piece["weights"]
    even = 1 / len(experts)
    ahead = (weights[leader] - even) / (1 - even) if len(experts) > 1 else 1.0
    alpha = FAINT + (STRONG - FAINT) * min(max(ahead, 0.0), 1.0)
    title = ", ".join(f"{words.name(name)} {weight:.2f}" for name, weight in zip(experts, weights, strict=True))
    return Token(piece["text"], slot(leader), f"{alpha:.2f}", title)


def _leader(piece: Mapping[str, Any], experts: list[str]) -> int | None:
    weights = piece.get("weights") or ()
    if len(weights) != len(experts) or not experts:
        return None
    return max(range(len(weights)), key=lambda k: weights[k])


def _weights(piece: Mapping[str, Any], experts: list[str]) -> Iterator[Cell]:
    leader = _leader(piece, experts)
    for k in range(len(experts)):
        yield number(words.NOTHING if leader is None else words.fixed(piece["weights"][k], 2), best=k == leader)


def _carried(pieces: Sequence[Mapping[str, Any]], experts: list[str]) -> str:
    led = Counter(leader for piece in pieces if (leader := _leader(piece, experts)) is not None)
    return ", ".join(f"{words.name(name)} {led[k]}" for k, name in enumerate(experts)) if led else ""
