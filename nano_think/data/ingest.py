"""Sources -> cleaned, deduplicated, split documents in Arrow shards, and the counts of every step."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.config import Config
from nano_think.core.errors import InputError, storage
from nano_think.core.files import digest, sha256
from nano_think.data.contamination import Passages, texts_of
from nano_think.data.merging import Merger
from nano_think.data.reading import PASSAGES, Part, read_all
from nano_think.data.source import MAX_DOC_BYTES, BadLines, Reading, Source, ask_all
from nano_think.data.sources.files import matches
from nano_think.data.stand_ins import settle

# What cleaning counts, in the order of its steps.
STEPS = (
    *("read", "bad_lines", "control_characters", "normalised", "split", "too_short", "contaminated"),
    *("duplicates", "over_limit"),
)


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
    """Longest document, in bytes; longer texts are cut into several where a paragraph, a line or a word ends."""
    bad_lines: BadLines = "error"
    """What an unusable line of a user's file does: 'error' stops, 'skip' counts it and goes on."""
    decontaminate: tuple[str, ...] = ()
    """JSON lines files of evaluation sets, as globs: a document that shares 13 words in a row with one is left out."""
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
        self.at_least(1, "min_chars", "max_doc_bytes", "max_bytes_per_source")

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
    sources = [{"name": source.name, "origin": source.origin} for source in settled.sources]
    return sources + [{"name": f"evaluation set {path.name}", "origin": sha256(path)} for path in _held_out(config)]


def ingest(
    config: IngestConfig, out: Path, note: Callable[[str], None] = ignore, workers: int | None = None
) -> dict[str, Any]:
    """Write `out/SPLIT.documents-NNNNN.arrow` (text, source, id, domain) and return what was kept and why.

    `out/seen.arrow` has the digest and the split of every document. The same configuration and the same sources give
    the same bytes, by however many processes (`workers`, none = one per core) and after however many interruptions:
    finished sources in `out/work` are not read again. Raises `InputError` for what cannot be read and when no document
    is left; all sources that cannot be reached are named at once, before anything is written.
    """
    settled = settle(config.sources, config.reading, config.offline_ok)
    sources = settled.sources
    ask_all(sources, lambda source: source.check())
    for one in settled.absent:
        note(one.told)
    parts = out / "work" / "parts"
    with storage(out):
        parts.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("*.documents-*.arrow"):
            stale.unlink()
        cleaning = {"min_chars": config.min_chars, "passages": _find_passages(config, parts / PASSAGES)}
        read_all(sources, cleaning, config.reading, parts, workers or os.cpu_count() or 1)
        merger = Merger([Part(parts, number) for number in range(len(sources))])
        merger.choose(config.max_bytes_per_source, config.fractions)
        counts = merger.counts()
        _check_any_left(counts)
        shards = merger.write(out)
    rows = [
        _describe(source) | settled.role(source) | kept for source, kept in zip(sources, merger.kept(), strict=True)
    ]
    for row in rows:
        note(f"{row['name']}: {row['documents']:,} documents, {row['bytes'] / 1e6:.2f} MB")
    shutil.rmtree(parts)
    with contextlib.suppress(OSError):
        parts.parent.rmdir()
    return {
        "sources": rows,
        "left_out": settled.left_out,
        "splits": merger.splits(),
        "cleaning": {name: counts.get(name, 0) for name in (*STEPS, "kept")},
        "lengths": merger.lengths(),
        "shards": shards,
    }


def _held_out(config: IngestConfig) -> list[Path]:
    return [path for pattern in config.decontaminate for path in matches("jsonl", pattern)]


def _find_passages(config: IngestConfig, folder: Path) -> str | None:
    """Put the passages of the evaluation sets where the readers find them; a digest of the sets."""
    files = _held_out(config)
    if not files:
        return None
    folder.mkdir(exist_ok=True)
    Passages.of(texts_of(files)).save(folder)
    return digest([sha256(path) for path in files])


def _describe(source: Source) -> dict[str, Any]:
    return {"name": source.name, "domain": source.domain, "licence": source.licence, "origin": source.origin}


def _check_any_left(counts: dict[str, int]) -> None:
    if not counts["kept"]:
        why = ", ".join(f"{name.replace('_', ' ')} {counts[name]}" for name in STEPS if counts.get(name))
        raise InputError(f"no documents are left after cleaning ({why or 'nothing was read'}); give more text")
