"""Sources -> cleaned, deduplicated, split documents in Arrow shards, and the counts of every step."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano_think.core.config import Config
from nano_think.core.errors import InputError, storage
from nano_think.data.clean import SPLITS, Cleaner, choice_order, split_of_digest
from nano_think.data.document import Document
from nano_think.data.shards import DocumentWriter, read_documents
from nano_think.data.source import MAX_DOC_BYTES, BadLines, Reading, Source, ask_all
from nano_think.data.stand_ins import settle

__all__ = ["IngestConfig", "fingerprint", "ingest", "read_documents"]

# What cleaning counts, in the order of its steps.
STEPS = ("read", "bad_lines", "control_characters", "normalised", "too_short", "too_long", "duplicates", "over_limit")


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig(Config):
    """What text is read, and how it is cleaned and divided."""

    sources: tuple[str, ...] = ("starter",)
    """Sources: names, the groups 'starter' (no network) and 'seven' (the design's datasets, from the Hugging Face hub),
    'jsonl:GLOB' or 'text:GLOB' for files of your own."""
    offline_ok: bool = False
    """Where a dataset of the hub cannot be reached, read the source on this machine that stands in for it, or go on
    without it; the report tells."""
    max_bytes_per_source: int | None = None
    """Bytes of text kept of each source, chosen by hash over the whole of it; none = all."""
    min_chars: int = 1
    """Shortest document that is kept, in characters without white space at the ends."""
    max_doc_bytes: int = MAX_DOC_BYTES
    """Longest document that is kept, and longest line that is read, in bytes."""
    bad_lines: BadLines = "error"
    """What an unusable line of a user's file does: 'error' stops, 'skip' counts it and goes on."""
    router_fraction: float = 0.1
    """Share of the documents for training the router, unseen by the experts (0 to 1)."""
    validation_fraction: float = 0.03
    """Share of the documents for validation (0 to 1)."""
    test_fraction: float = 0.05
    """Share of the documents for the final figures (0 to 1)."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: wanted at least one, such as 'starter'")
        if any(not 0 <= share < 1 for share in self.fractions.values()) or sum(self.fractions.values()) >= 1:
            raise ValueError("router_fraction + validation_fraction + test_fraction: each from 0, the sum below 1")
        # Sizes are kept in 32 bits.
        if self.max_doc_bytes > 2**30:
            raise ValueError(f"max_doc_bytes: wanted at most {2**30}, got {self.max_doc_bytes}")
        if self.min_chars < 1 or self.max_doc_bytes < 1 or (self.max_bytes_per_source or 1) < 1:
            raise ValueError("min_chars, max_doc_bytes and max_bytes_per_source: wanted at least 1")

    @property
    def fractions(self) -> dict[str, float]:
        """Split -> share, in the order that `clean.split_of` lays them out; train has the rest."""
        return {"test": self.test_fraction, "validation": self.validation_fraction, "router": self.router_fraction}

    @property
    def reading(self) -> Reading:
        return Reading(bad_lines=self.bad_lines, max_doc_bytes=self.max_doc_bytes)


def ignore(_: str) -> None:
    """Where notes go when nobody listens."""


def fingerprint(config: IngestConfig) -> list[dict[str, str]]:
    """What the result depends on beside the configuration: each source's name and origin (version or sha256)."""
    settled = settle(config.sources, config.reading, config.offline_ok)
    return [{"name": source.name, "origin": source.origin} for source in settled.sources]


def ingest(config: IngestConfig, out: Path, note: Callable[[str], None] = ignore) -> dict[str, Any]:
    """Write `out/SPLIT.documents-NNNNN.arrow` (text, source, id, domain) and return what was kept and why.

    The same configuration and the same sources give the same bytes. Raises `InputError` for what cannot be read and
    when no document is left; all sources that cannot be reached are named at once, before anything is written.
    """
    settled = settle(config.sources, config.reading, config.offline_ok)
    ask_all(settled.sources, lambda source: source.check())
    for one in settled.absent:
        note(one.told)
    cleaner = Cleaner(min_chars=config.min_chars, max_doc_bytes=config.max_doc_bytes)
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("*.documents-*.arrow"):
            stale.unlink()
    tallies: dict[str, Tally] = {split: Tally() for split in SPLITS}
    rows = []
    with contextlib.ExitStack() as stack:
        writers = {split: stack.enter_context(DocumentWriter(out, split)) for split in SPLITS}
        for source in settled.sources:
            kept = Tally()
            for document, digest in _kept(source, cleaner, config.max_bytes_per_source):
                split, size = split_of_digest(digest, config.fractions), len(document.text.encode())
                writers[split].add(document, size)
                tallies[split].add(document, size)
                kept.add(document, size)
            cleaner.counts["bad_lines"] += source.skipped.total()
            rows.append(_describe(source) | settled.role(source) | kept.total)
            note(f"{source.name}: {kept.total['documents']:,} documents, {kept.total['bytes'] / 1e6:.2f} MB")
    cleaning = _cleaning(cleaner.counts, tallies)
    return {
        "sources": rows,
        "left_out": settled.left_out,
        "splits": {split: tally.summary() for split, tally in tallies.items()},
        "cleaning": cleaning,
        "shards": [shard for writer in writers.values() for shard in writer.shards],
    }


class Tally:
    """Documents and bytes, in all and by domain."""

    def __init__(self) -> None:
        self.total = {"documents": 0, "bytes": 0}
        self.domains: dict[str, dict[str, int]] = {}

    def add(self, document: Document, size: int) -> None:
        for count in (self.total, self.domains.setdefault(document.domain, {"documents": 0, "bytes": 0})):
            count["documents"] += 1
            count["bytes"] += size

    def summary(self) -> dict[str, Any]:
        return self.total | {"domains": dict(sorted(self.domains.items()))}


def _kept(source: Source, cleaner: Cleaner, limit: int | None) -> Iterator[tuple[Document, bytes]]:
    if limit is None:
        yield from cleaner.clean(source.documents())
        return
    chosen = _chosen(source, cleaner, limit)
    for document, digest in cleaner.clean(source.documents()):
        if choice_order(digest) in chosen:
            yield document, digest
        else:
            cleaner.counts["over_limit"] += 1


def _chosen(source: Source, cleaner: Cleaner, limit: int) -> set[int]:
    """A first reading: take documents in the order of their hashes as long as they fit into `limit` bytes."""
    probe = Cleaner(min_chars=cleaner.min_chars, max_doc_bytes=cleaner.max_doc_bytes)
    fresh = ((doc, digest) for doc, digest in probe.clean(source.documents()) if digest[:16] not in cleaner.seen)
    pairs = ((choice_order(digest), len(doc.text.encode())) for doc, digest in fresh)
    sizes = np.fromiter(pairs, dtype=[("order", "u8"), ("bytes", "i8")])
    chosen, left = set(), limit
    for order, size in np.sort(sizes, order="order").tolist():
        if size <= left:
            chosen.add(order)
            left -= size
    return chosen


def _describe(source: Source) -> dict[str, Any]:
    return {"name": source.name, "domain": source.domain, "licence": source.licence, "origin": source.origin}


def _cleaning(counts: Counter[str], tallies: Mapping[str, Tally]) -> dict[str, int]:
    kept = sum(tally.total["documents"] for tally in tallies.values())
    cleaning = {name: counts[name] for name in STEPS} | {"kept": kept}
    if not kept:
        why = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in cleaning.items() if count)
        raise InputError(f"no documents are left after cleaning ({why or 'nothing was read'}); give more text")
    return cleaning
