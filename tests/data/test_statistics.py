"""What a corpus amounts to: sums that add up, and lengths in bins that are exact at their limits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_think.data.clean import SPLITS
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.shards import read_documents
from nano_think.data.statistics import add_up, by_domain, length_bins, median_bin, read_lengths
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import write_tokens


@given(st.lists(st.integers(1, 2**31 - 1), max_size=50))
def test_a_size_is_in_the_bin_of_its_highest_bit(sizes: list[int]) -> None:
    """Beside the plain way of counting, one at a time."""
    plain: dict[str, int] = {}
    for size in sizes:
        plain[str(size.bit_length() - 1)] = plain.get(str(size.bit_length() - 1), 0) + 1
    assert length_bins(np.array(sizes, dtype=np.int64)) == plain


@pytest.mark.parametrize("k", [1, 10, 24, 30])
def test_the_limits_of_a_bin_are_exact(k: int) -> None:
    """2^k opens its bin and 2^k - 1 closes the one before."""
    assert length_bins(np.array([2**k - 1, 2**k])) == {str(k - 1): 1, str(k): 1}
    assert length_bins(np.array([0])) == {} == length_bins(np.array([], dtype=np.int32))


def test_lengths_are_those_of_all_documents(corpus: Path, tmp_path: Path) -> None:
    """Off the shards, as from the documents one by one."""
    ingest(IngestConfig(sources=(f"jsonl:{corpus}/*/*.jsonl",)), tmp_path)
    plain: dict[str, dict[str, int]] = {}
    for document in (document for split in SPLITS for document in read_documents(tmp_path, split)):
        bins = plain.setdefault(document.domain, {})
        k = str(len(document.text.encode()).bit_length() - 1)
        bins[k] = bins.get(k, 0) + 1
    assert read_lengths(tmp_path) == plain
    assert plain.keys() == {"cats", "dogs"}


def test_the_parts_add_up_to_the_whole(documents: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Domains and splits of real summaries; the start tokens are tokens but stand for no bytes."""
    tokens = write_tokens(documents, tokenizer, tmp_path)["splits"]
    found, whole = by_domain(tokens, tokens), add_up(tokens.values(), tokens.values())
    for key in ("documents", "bytes", "tokens"):
        assert sum(counts[key] or 0 for counts in found.values()) == whole[key]
    texts = [document.text for split in SPLITS for document in read_documents(documents, split)]
    ids = sum(len(tokenizer.encode(text)) for text in texts)
    assert whole["bytes_per_token"] == sum(len(text.encode()) for text in texts) / ids
    assert whole["tokens"] == ids + len(texts)


def test_what_is_not_known_is_none() -> None:
    """No tokens yet, no documents at all, a domain that one split lacks."""
    splits = {"train": {"documents": 2, "bytes": 10, "domains": {"a": {"documents": 2, "bytes": 10}}}, "test": {}}
    assert by_domain(splits, {}) == {"a": {"documents": 2, "bytes": 10, "tokens": None, "bytes_per_token": None}}
    assert add_up([], [{"tokens": 0, "documents": 0}])["bytes_per_token"] is None
    assert by_domain({}, {}) == {}


@pytest.mark.parametrize(
    ("bins", "expected"), [({3: 1}, 3), ({3: 1, 4: 1}, 3), ({3: 1, 5: 2}, 5), ({0: 50, 9: 49, 20: 2}, 9)]
)
def test_the_median_is_in_the_bin_that_reaches_half(bins: dict[int, float], expected: int) -> None:
    """By counting from the shortest."""
    assert median_bin(bins) == expected
