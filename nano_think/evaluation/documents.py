"""Documents to evaluate: from token sets, and from users' own files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nano_think.data.jsonl_reader import jsonl_rows
from nano_think.data.source import BadLines
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.reading import Document


def split_documents(tokens: TokenSet, most_tokens: int, seed: int) -> Iterator[Document]:
    """The documents of a split in a drawn order, whole ones, up to the first that would pass `most_tokens`.

    Longer ones than that are left out only as long as nothing has been taken.
    """
    table = tokens.documents.to_pydict()
    left = most_tokens
    for index in np.random.default_rng(seed).permutation(len(table["offset"])):
        offset, length = table["offset"][index], table["tokens"][index]
        if length > left and left < most_tokens:
            return
        if length <= left:
            left -= length
            ids = tokens.tokens[offset : offset + length].astype(np.int64)
            yield Document(ids, table["bytes"][index], table["domain"][index])


def file_documents(paths: Sequence[Path], tokenizer: Tokenizer, bad_lines: BadLines) -> Iterator[Document]:
    """The rows of JSON lines files, as they are: nothing is cleaned, so the bytes are those of the text given.

    The domain of a row is the name of its file's folder.
    """
    for path in paths:
        domain = path.resolve().parent.name or "text"
        for _, row in jsonl_rows(path, bad_lines):
            ids = np.array(tokenizer.encode_document(row["text"]), dtype=np.int64)
            yield Document(ids, len(row["text"].encode()), domain)
