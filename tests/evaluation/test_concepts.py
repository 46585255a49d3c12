"""Texts by their concepts: where pieces lie, which are nearest, and the map."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from nano_think.core.errors import UsageError
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.concepts import (
    bits_of,
    concept_map,
    concepts_part,
    expected,
    nearest,
    number_of,
    pieces_of,
    places_of,
)
from nano_think.nn.hypercube import concept_of, pack_bits
from nano_think.parts.concepts import BITS, CONCEPTS, signs_of
from tests.tiny import START, draw_tokens, tiny_chat


class Words:
    """Of a tokenizer, what a map needs."""

    def __init__(self):
        self.special = {"<|bos|>": START}

    def decode(self, ids):
        return " ".join(str(token) for token in ids)


def texts(*lengths: int) -> TokenSet:
    """Documents of random tokens, each behind its start token, from "a" and "b" in turn."""
    rows = [draw_tokens(1, length, seed=length)[0].numpy() for length in lengths]
    offsets = np.cumsum([0, *lengths[:-1]])
    table = {"offset": offsets, "tokens": lengths, "domain": ["ab"[n % 2] for n in range(len(lengths))]}
    return TokenSet(np.concatenate(rows), pa.table(table))


def test_pieces_are_the_documents_without_their_start_tokens():
    held = texts(9, 2, 1, 5)
    pieces = pieces_of(held, 4)
    assert [(len(one.tokens), one.domain) for one in pieces] == [(4, "a"), (4, "a"), (1, "b"), (4, "b")]
    assert [token for one in pieces for token in one.tokens] == [token for token in held.tokens if token != START]


def test_the_nearest_differ_in_the_fewest_bits():
    """Of equal ones those that lie most like the query come first; a piece is nearest to itself."""
    places_PN = torch.randn(200, BITS, generator=torch.Generator().manual_seed(0))
    found = nearest(places_PN, places_PN[7], 200)
    assert found[0].piece == 7 and found[0].differing == 0 and found[0].similarity == pytest.approx(1)
    order = [(one.differing, -one.similarity) for one in found]
    assert order == sorted(order) and {one.piece for one in found} == set(range(200))
    for one in found:
        assert one.differing == sum(
            a != b for a, b in zip(bits_of(places_PN[one.piece]), bits_of(places_PN[7]), strict=True)
        )


@torch.no_grad()
def test_what_is_expected_has_the_probability_that_the_part_gives_it():
    model = tiny_chat(parts=["concepts"])
    part, tokens = concepts_part(model), draw_tokens(1, 9)[0].tolist()
    pieces = [one.tokens for one in pieces_of(texts(300), 4)]
    places_PN = places_of(model, pieces)
    signs_N, found = expected(model, tokens, places_PN, 75)
    hidden_D = model(torch.tensor([tokens])).hidden[0, -1]
    log_p_G = part.head(hidden_D).unflatten(-1, (4, 16)).log_softmax(-1)
    for one in found:
        words_G = part.words(signs_of(places_PN[one.piece]))
        assert one.log_p == pytest.approx(sum(log_p_G[g, word].item() for g, word in enumerate(words_G)), abs=1e-4)
    assert [one.log_p for one in found] == sorted((one.log_p for one in found), reverse=True)
    assert torch.equal(part.words(signs_N), log_p_G.argmax(-1))


def test_a_concept_has_the_number_of_its_vertex():
    signs_N = signs_of(torch.randn(BITS))
    assert number_of(signs_N) == int(concept_of(pack_bits(signs_N), BITS, CONCEPTS)) < CONCEPTS


def test_the_map_holds_every_piece_once():
    """In the cell of its bits, and neighbours on the map differ in one bit."""
    model, held = tiny_chat(parts=["concepts"], horizon=4), texts(400, 400)
    found = concept_map(model, held, Words())  # type: ignore[arg-type]
    assert found and found["pieces"] == 200 == sum(one["pieces"] for one in found["cells"])
    assert found["cells"] == sorted(found["cells"], key=lambda one: -one["pieces"])
    for one in found["cells"]:
        assert sum(one["domains"].values()) == one["pieces"] and 0 <= one["column"] < 16 and 0 <= one["row"] < 16
        for other in found["cells"]:
            apart = abs(one["column"] - other["column"]) + abs(one["row"] - other["row"])
            bits = sum(a != b for a, b in zip(one["bits"], other["bits"], strict=True))
            assert (apart == 0) == (bits == 0) and (apart != 1 or bits == 1)


def test_the_words_of_a_cell_are_those_that_lie_deepest_in_it():
    model, held = tiny_chat(parts=["concepts"], horizon=4), texts(400)
    found = concept_map(model, held, Words())  # type: ignore[arg-type]
    places_PN = places_of(model, [piece.tokens for piece in pieces_of(held, 4)])[:, :8]
    for one in found["cells"]:
        place_N = places_of(model, [[int(token) for token in one["text"].split()]])[0, :8]
        assert bits_of(place_N) == one["bits"]
        same_P = torch.tensor([bits_of(other_N) == one["bits"] for other_N in places_PN])
        assert place_N.abs().sum() >= places_PN[same_P].abs().sum(dim=1).max() - 1e-5


def test_pieces_of_marks_alone_are_not_on_the_map():
    model, words = tiny_chat(parts=["concepts"], horizon=4), Words()
    words.special = {str(token): token for token in range(START + 1)}
    assert concept_map(model, texts(40), words) is None  # type: ignore[arg-type]


def test_a_model_without_concepts_has_no_map_and_is_not_searched():
    assert concept_map(tiny_chat(), texts(9), Words()) is None  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="this model has none; train one"):
        concepts_part(tiny_chat())
