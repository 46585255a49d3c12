"""What texts are about by a model's concepts: pieces of text as vertices of the hypercube, and the nearest of them.

P pieces, N bits of a concept, D model width
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.models.chat import Chat, Model
from nano_think.nn.hypercube import concept_of, gray_rank, pack_bits
from nano_think.parts.concepts import BITS, CONCEPTS, Concepts, signs_of

SHOWN = 8
"""Bits of a concept that a map shows: as many as its columns and rows have together."""


class Piece(NamedTuple):
    """A few tokens in a row, and where they are from."""

    tokens: list[int]
    domain: str


class Found(NamedTuple):
    """A piece that was looked for: its place among the pieces, how many bits its vertex differs by, how like the query
    it lies (cosine), and ln p of its vertex where a model expects something (nats).
    """

    piece: int
    differing: int
    similarity: float
    log_p: float | None


def concepts_part(model: Model) -> Concepts:
    """The part of a model that has concepts; `UsageError` where there is none."""
    part = model.parts["concepts"] if isinstance(model, Chat) and "concepts" in model.parts else None
    if not isinstance(part, Concepts):
        raise UsageError("concepts: this model has none; train one with: nano-think sft --parts.on concepts")
    return part


def pieces_of(texts: TokenSet, length: int) -> list[Piece]:
    """The documents, without start tokens, cut into pieces of `length` tokens; the last of each may be shorter."""
    columns = (texts.documents.column(name).to_pylist() for name in ("offset", "tokens", "domain"))
    return [
        Piece(texts.tokens[place : min(place + length, offset + count)].tolist(), domain)
        for offset, count, domain in zip(*columns, strict=True)
        for place in range(offset + 1, offset + count, length)
    ]


@torch.no_grad()
def places_of(model: Model, pieces: Sequence[Sequence[int]]) -> Tensor:
    """Where pieces lie, (P, N): their mean embeddings along the directions of the concepts."""
    part, head = concepts_part(model), model.head
    device = head.table.device
    means = [head.embed(torch.tensor(list(piece), device=device)).mean(dim=0) for piece in pieces]
    return part.project(torch.stack(means))


def nearest(places_PN: Tensor, query_N: Tensor, count: int) -> list[Found]:
    """The pieces whose vertices differ from the query's in the fewest bits, and of equal ones those that lie most like
    it.
    """
    differing_P = (signs_of(places_PN) != signs_of(query_N)).sum(dim=1)
    similarity_P = torch.cosine_similarity(places_PN, query_N[None], dim=1)
    # A cosine is at most 1: two bits apart are more than any cosine.
    order = (differing_P.double() * 4 - similarity_P.double()).argsort(stable=True)[:count].tolist()
    return [Found(place, int(differing_P[place]), float(similarity_P[place]), None) for place in order]


@torch.no_grad()
def expected(model: Model, tokens: Sequence[int], places_PN: Tensor, count: int) -> tuple[Tensor, list[Found]]:
    """What a model expects to follow a text: the signs of the likeliest vertex, (N), and the pieces whose vertices it
    holds for the likeliest.
    """
    part, device = concepts_part(model), model.head.table.device
    hidden_D = model(torch.tensor([list(tokens)], device=device)).hidden[0, -1]
    query_N = part.expect(hidden_D)
    log_p_P = part.log_p_of(hidden_D, signs_of(places_PN))
    differing_P = (signs_of(places_PN) != query_N).sum(dim=1)
    similarity_P = torch.cosine_similarity(places_PN, query_N[None], dim=1)
    order = (-log_p_P.double() - similarity_P.double() * 1e-6).argsort(stable=True)[:count].tolist()
    found = [Found(n, int(differing_P[n]), float(similarity_P[n]), float(log_p_P[n])) for n in order]
    return query_N, found


def number_of(signs_N: Tensor) -> int:
    """The number of a vertex's concept."""
    return int(concept_of(pack_bits(signs_N), BITS, CONCEPTS))


def bits_of(signs_N: Tensor) -> str:
    """A vertex as 0 and 1, the direction in which words differ most first."""
    return "".join("1" if sign > 0 else "0" for sign in signs_N.tolist())


def readable(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of some tokens, without the marks between messages."""
    marks = set(tokenizer.special.values())
    return tokenizer.decode([token for token in tokens if token not in marks])


def concept_map(model: Model, texts: TokenSet, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The pieces of texts on a map of the first eight bits, on which a step to a neighbour changes one of them
    (Karnaugh 1953): how many lie in each cell, by domain, and the words of the one that lies furthest inside. Pieces of
    marks alone do not count; nothing of a model without concepts.
    """
    if not (isinstance(model, Chat) and "concepts" in model.parts):
        return None
    length = concepts_part(model).config.horizon
    pieces = [piece for piece in pieces_of(texts, length) if readable(piece.tokens, tokenizer).strip()]
    if not pieces:
        return None
    places_PN = places_of(model, [piece.tokens for piece in pieces])[:, :SHOWN].cpu()
    cells: dict[str, list[int]] = {}
    for place, signs_N in enumerate(signs_of(places_PN)):
        cells.setdefault(bits_of(signs_N), []).append(place)
    fullest = sorted(cells.items(), key=lambda cell: (-len(cell[1]), cell[0]))
    told = [_cell(bits, inside, pieces, places_PN, tokenizer) for bits, inside in fullest]
    return {"length": length, "pieces": len(pieces), "cells": told}


def _cell(
    bits: str, inside: list[int], pieces: Sequence[Piece], places_PN: Tensor, tokenizer: Tokenizer
) -> dict[str, Any]:
    signs_N = signs_of(places_PN[inside[0]])
    column, row = (int(gray_rank(pack_bits(signs_N[first::2].flip(0)), SHOWN // 2)) for first in (0, 1))
    deepest = inside[int((places_PN[inside] * signs_N).sum(dim=1).argmax())]
    domains = dict(Counter(pieces[place].domain for place in inside).most_common())
    text = readable(pieces[deepest].tokens, tokenizer)
    return {"bits": bits, "column": column, "row": row, "pieces": len(inside), "domains": domains, "text": text}
