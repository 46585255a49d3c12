"""What a corpus amounts to: documents, bytes, tokens and lengths, from what ingestion and tokenization have counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nano_think.data.clean import SPLITS
from nano_think.data.shards import arrow_file, document_shards

Counts = dict[str, float | None]


def add_up(texts: Iterable[Mapping[str, Any]], encoded: Iterable[Mapping[str, Any]] = ()) -> Counts:
    """{documents, bytes, tokens, bytes_per_token} of several parts.

    texts: {documents, bytes} of each; encoded: {tokens, documents} of each, empty where nothing has been encoded: then
    tokens and bytes_per_token are None. Tokens are counted with the start token of each document, which stands for no
    bytes and is left out of bytes_per_token.
    """
    parts, tokens = list(texts), list(encoded)
    documents, size = (sum(part.get(key) or 0 for part in parts) for key in ("documents", "bytes"))
    counts: Counts = {"documents": documents, "bytes": size, "tokens": None, "bytes_per_token": None}
    if tokens:
        whole = sum(part.get("tokens") or 0 for part in tokens)
        inner = whole - sum(part.get("documents") or 0 for part in tokens)
        counts |= {"tokens": whole, "bytes_per_token": size / inner if inner > 0 else None}
    return counts


def by_domain(splits: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, Mapping[str, Any]]) -> dict[str, Counts]:
    """Domain -> its counts over all splits, from the summaries of the stages ingest and tokens."""

    def parts(found: Mapping[str, Mapping[str, Any]], domain: str) -> list[Mapping[str, Any]]:
        inside = [split.get("domains") or {} for split in found.values()]
        return [one[domain] for one in inside if domain in one]

    domains = sorted({domain for split in (splits or tokens).values() for domain in split.get("domains") or {}})
    return {domain: add_up(parts(splits or tokens, domain), parts(tokens, domain)) for domain in domains}


def length_bins(sizes: np.ndarray) -> Counter[str]:
    """Sizes in bytes -> {str(k): how many are from 2^k to 2^(k+1) - 1}; the empty ones are left out."""
    # frexp is exact where log2 rounds: 2^k - 1 stays below 2^k.
    exponents = np.frexp(sizes[sizes > 0].astype(np.float64))[1] - 1
    return Counter({str(k): int(count) for k, count in enumerate(np.bincount(exponents)) if count})


def median_bin(bins: Mapping[int, float]) -> int:
    """The bin that the median of the documents is in; there must be some."""
    half, seen = sum(bins.values()) / 2, 0.0
    for k in sorted(bins):
        seen += bins[k]
        if seen >= half:
            return k
    raise AssertionError("an empty histogram")


def read_lengths(folder: Path) -> dict[str, dict[str, int]]:
    """Domain -> its `length_bins`, off the shards of all splits, one record batch in memory at a time."""
    import pyarrow.compute as pc

    found: dict[str, Counter[str]] = {}
    for shard in (shard for split in SPLITS for shard in document_shards(folder, split)):
        with arrow_file(shard) as file:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                sizes, domains = pc.binary_length(batch["text"]).to_numpy(), batch["domain"]
                for domain in pc.unique(domains).to_pylist():
                    mine = pc.equal(domains, domain).to_numpy(zero_copy_only=False)
                    found.setdefault(domain, Counter()).update(length_bins(sizes[mine]))
    return {domain: dict(sorted(bins.items(), key=lambda pair: int(pair[0]))) for domain, bins in sorted(found.items())}
