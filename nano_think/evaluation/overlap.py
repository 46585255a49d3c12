"""Whether what a model is to be measured on is what it was made from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from nano_think.core.console import clean
from nano_think.data.clean import Cleaner
from nano_think.data.document import Document
from nano_think.data.jsonl_reader import jsonl_rows
from nano_think.data.merging import SEEN
from nano_think.data.shards import arrow_file
from nano_think.data.source import BadLines

__all__ = ["MADE_FROM", "SEEN", "Overlap", "find_overlap"]

MADE_FROM = ("train", "router", "validation")
"""The splits that a model is fitted on, in any of its parts."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The documents of a user's files that a model has seen."""

    documents: int
    """All documents of the files."""
    splits: dict[str, int]
    """Split -> documents whose cleaned text is in it, of those that a model is made from; empty ones left out."""
    first: list[str]
    """FILE:LINE and id of a few of them, in the order of the files."""

    @property
    def found(self) -> int:
        return sum(self.splits.values())

    @property
    def told(self) -> str:
        """One line for the user."""
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        more = ", ..." if self.found > len(self.first) else ""
        return (
            f"{self.found} of {self.documents} documents are text that the model was made from ({splits}): "
            f"{', '.join(self.first)}{more}"
        )


def find_overlap(paths: Sequence[Path], bad_lines: BadLines, seen: Path, cleaner: dict[str, Any]) -> Overlap:
    """Look for the documents of JSON lines files in `seen`, each cleaned as the model's own text was.

    seen: the file of that name of an ingestion (digest, split). cleaner: the settings of `Cleaner` that its text went
    through. Only exact copies are found, of a text that was cut into documents any of them.
    """
    documents, digests = 0, dict[bytes, None]()
    for _, found in _digests(paths, bad_lines, cleaner):
        documents += 1
        digests.update(dict.fromkeys(found))
    split_of = _splits(seen, list(digests))
    splits, first = Counter[str](), list[str]()
    for place, found in _digests(paths, bad_lines, cleaner) if split_of else ():
        split = next((split_of[digest] for digest in found if digest in split_of), None)
        if split:
            splits[split] += 1
            first += [place] if len(first) < 3 else []
    return Overlap(documents, {split: splits[split] for split in MADE_FROM if splits[split]}, first)


def _digests(paths: Sequence[Path], bad_lines: BadLines, cleaner: dict[str, Any]) -> Iterator[tuple[str, list[bytes]]]:
    """Where each row is, and the digests of what cleaning makes of it: none, one, or several of a text that is cut."""
    for path in paths:
        # Longer lines come in pieces, which are the same ones only under the same limit.
        rows = jsonl_rows(path, bad_lines, max_bytes=cleaner["max_doc_bytes"])
        for number, pieces in groupby(rows, key=itemgetter(0)):
            found, named = [], ""
            for _, row in pieces:
                kept = Cleaner(**cleaner).clean([Document(row["text"], "", "", "", piece=row.get("piece", 0))])
                found += [digest[:16] for _, digest, _ in kept]
                named = "" if row.get("id") is None else f" (id {clean(str(row['id']))[:40]})"
            yield f"{path}:{number}{named}", found


def _splits(seen: Path, digests: list[bytes]) -> dict[bytes, str]:
    """The split of each digest that is in a split that models are made from; one record batch in memory at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted, splits = pa.array(digests, pa.binary(16)), pa.array(MADE_FROM)
    found: dict[bytes, str] = {}
    with arrow_file(seen) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            known = pc.and_(pc.is_in(batch["digest"], wanted), pc.is_in(batch["split"], splits))
            hits = batch.filter(known)
            found |= zip(hits["digest"].to_pylist(), hits["split"].to_pylist(), strict=True)
    return found
