"""Which documents hold a passage of an evaluation set: 13 words in a row, as in GPT-3's report.

Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C, also chose 13 words. Words are runs of letters
and digits, whatever their case; what stands between them does not count.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano_think.core.files import read_json, replacing, write_json
from nano_think.data.jsonl_reader import jsonl_objects

WORDS = 13
_WORD = re.compile(r"\w+")
# An odd constant with well-mixed bits: a polynomial in it, modulo 2^64, is the hash of a passage.
_BASE = 0x9E3779B97F4A7C15
# Names, not passages.
_NOT_TEXT = {"id", "source", "source_id", "task_id"}


@dataclass(frozen=True, slots=True)
class Passages:
    """All passages of 13 words of some evaluation sets."""

    words: dict[str, int]
    """The sets' words, numbered from 1."""
    hashes: np.ndarray
    """(P,) uint64, sorted: a hash of each passage."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Passages":
        words: dict[str, int] = {}
        found = [np.empty(0, np.uint64)]
        for text in texts:
            found.append(
                _hashes(np.array([words.setdefault(word, len(words) + 1) for word in _split(text)], np.uint64))
            )
        return cls(words, np.unique(np.concatenate(found)))

    def meet(self, text: str) -> bool:
        """Whether the text holds one of the passages."""
        ids = np.fromiter((self.words.get(word, 0) for word in _split(text)), np.uint64)
        hashes = _hashes(ids)
        if not len(hashes) or not len(self.hashes):
            return False
        # A passage with a word that no evaluation set has is none of theirs.
        strange = np.concatenate([[0], np.cumsum(ids == 0)])
        known = hashes[strange[WORDS:] == strange[:-WORDS]]
        places = np.minimum(np.searchsorted(self.hashes, known), len(self.hashes) - 1)
        return bool(np.any(self.hashes[places] == known))

    def save(self, folder: Path) -> None:
        """Write passages.npy and words.json to `folder`."""
        write_json(folder / "words.json", list(self.words))
        with replacing(folder / "passages.npy") as path, path.open("wb") as file:
            np.save(file, self.hashes, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Passages":
        words = {word: number for number, word in enumerate(read_json(folder / "words.json"), start=1)}
        return cls(words, np.load(folder / "passages.npy", allow_pickle=False))


def texts_of(files: Iterable[Path]) -> Iterator[str]:
    """Each row of JSON lines files as one text: all its strings in order, whatever they are called."""
    for path in files:
        for row in jsonl_objects(path):
            yield " ".join(_strings({key: value for key, value in row.items() if key not in _NOT_TEXT}))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _split(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _hashes(ids: np.ndarray) -> np.ndarray:
    """(max(0, n - 12),) uint64: a hash of each 13 neighbours of n word numbers."""
    count = max(0, len(ids) - WORDS + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(WORDS):
        hashes = hashes * np.uint64(_BASE) + ids[place : place + count]
    return hashes
