"""Documents to evaluate: a user's file as it is, and whole documents of a split."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nano_think.data.tokens import TokenSet
from nano_think.evaluation.documents import file_documents, split_documents


class Bytes:
    """A tokenizer of bytes."""

    def encode_document(self, text: str) -> list[int]:
        return [256, *text.encode()]


def test_bytes_are_those_of_the_raw_text(tmp_path: Path):
    """Nothing is cleaned: spaces, control characters, unnormalised letters and emoji count as they stand."""
    texts = ["  plain \r\n", "é é \U0001f600", "\U0001f468‍\U0001f469‍\U0001f467", ""]
    path = tmp_path / "greek" / "rows.jsonl"
    path.parent.mkdir()
    rows = [{"text": text, "source": "made", "id": str(i)} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)))
    documents = list(file_documents([path], Bytes(), "error"))
    assert [document.bytes for document in documents] == [len(text.encode()) for text in texts]
    assert [bytes(document.tokens[1:].tolist()).decode() for document in documents] == texts
    assert {document.domain for document in documents} == {"greek"}


def make_split(lengths: list[int]) -> TokenSet:
    tokens = np.concatenate([np.full(length, place) for place, length in enumerate(lengths)]).astype(np.uint16)
    offsets = np.cumsum([0, *lengths[:-1]])
    table = pa.table({
        "offset": offsets, "tokens": lengths, "bytes": [3 * n for n in lengths], "domain": ["d"] * len(lengths),
    })  # fmt: skip
    return TokenSet(tokens, table)


@pytest.mark.parametrize("most", [0, 10, 25, 10_000])
def test_split_gives_whole_documents_up_to_the_limit(most: int):
    lengths = [7, 3, 12, 5, 9, 4]
    documents = list(split_documents(make_split(lengths), most, seed=1))
    assert sum(len(document.tokens) for document in documents) <= most
    for document in documents:
        (place,) = {*document.tokens.tolist()}
        assert len(document.tokens) == lengths[place] and document.bytes == 3 * lengths[place]
    assert len(documents) == (6 if most > 40 else len(documents))


def test_order_is_drawn_from_the_seed():
    def order(seed: int) -> list[int]:
        return [int(d.tokens[0]) for d in split_documents(make_split([2] * 30), 60, seed)]

    assert order(1) == order(1) != order(2) and sorted(order(1)) == list(range(30)) != order(1)
