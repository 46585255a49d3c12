"""Cleaning, one document at a time, every step counted; and the side of the split that a text belongs to."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nano_think.data.document import Document
from nano_think.data.source import MAX_DOC_BYTES

SPLITS = ("train", "router", "validation", "test")
FRACTIONS: Mapping[str, float] = {"test": 0.05, "validation": 0.03, "router": 0.1}

_LINE_ENDS = re.compile("\r\n?|\x85")
# Everything of Unicode's category Cc except \n and \t, and halves of surrogate pairs, which no UTF-8 can hold.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def text_digest(text: str) -> bytes:
    """sha256 of the UTF-8 bytes: what duplicates, splits and the choice under a byte limit go by."""
    return hashlib.sha256(text.encode()).digest()


def split_of(text: str, fractions: Mapping[str, float] = FRACTIONS) -> str:
    """The split of a text: a function of the text alone, so that it never changes sides when data are added.

    The splits lie side by side on [0, 1) in the order of `fractions`, test first and train last: what is test under
    one set of fractions is not train under another unless the test part itself shrinks.
    """
    return split_of_digest(text_digest(text), fractions)


def split_of_digest(digest: bytes, fractions: Mapping[str, float] = FRACTIONS) -> str:
    """As `split_of`, from `text_digest(text)`."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in fractions.items():
        if position < share:
            return split
        position -= share
    return "train"


def choice_order(digest: bytes) -> int:
    """The place of a document when only some can be kept; other bits than the split's, so both are independent."""
    return int.from_bytes(digest[8:16], "big")


@dataclass(slots=True)
class Cleaner:
    """Cleans documents and remembers what it has let through, over all sources that it is shown."""

    min_chars: int = 1
    """Shortest text that is kept, in characters without the white space at its ends."""
    max_doc_bytes: int = MAX_DOC_BYTES
    """Longest text that is kept, in UTF-8 bytes."""
    counts: Counter[str] = field(default_factory=Counter)
    """Documents read, normalised, control_characters (taken out), too_short, too_long, duplicates."""
    seen: set[bytes] = field(default_factory=set)

    def clean(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bytes]]:
        """The documents to keep, each with its text's digest; exact duplicates of anything seen before are dropped."""
        for document in documents:
            cleaned = self._cleaned(document)
            if cleaned is None:
                continue
            digest = text_digest(cleaned.text)
            # Half of a sha256 is beyond any chance of collision and half the memory.
            if digest[:16] in self.seen:
                self.counts["duplicates"] += 1
                continue
            self.seen.add(digest[:16])
            yield cleaned, digest

    def _cleaned(self, document: Document) -> Document | None:
        self.counts["read"] += 1
        text = self._normalised(self._without_controls(document.text))
        if len(text.strip()) < self.min_chars:
            self.counts["too_short"] += 1
            return None
        # Four bytes a character at most: only long texts need to be encoded to be measured.
        if len(text) * 4 > self.max_doc_bytes and len(text.encode()) > self.max_doc_bytes:
            self.counts["too_long"] += 1
            return None
        return document if text is document.text else replace(document, text=text)

    def _without_controls(self, text: str) -> str:
        if not _CONTROL.search(text):
            return text
        self.counts["control_characters"] += 1
        return _CONTROL.sub("", _LINE_ENDS.sub("\n", text))

    def _normalised(self, text: str) -> str:
        if unicodedata.is_normalized("NFC", text):
            return text
        self.counts["normalised"] += 1
        return unicodedata.normalize("NFC", text)
