"""Cleaning, one document at a time, every step counted; and the side of the split that a text belongs to."""

import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nano_think.data.cutting import cut_bytes, cut_runs
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
    """Cleans the documents of one source, in their order, and counts what it did."""

    min_chars: int = 1
    """Shortest text that is kept, in characters without the white space at its ends."""
    max_doc_bytes: int = MAX_DOC_BYTES
    """Longest document, in UTF-8 bytes; longer texts are cut into several."""
    counts: Counter[str] = field(default_factory=Counter)
    """Texts read, normalised, control_characters (taken out), split (cut into pieces); pieces too_short."""
    _first: bytes = b""
    _pieces: int = 0

    def clean(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bytes, bytes]]:
        """The documents to keep, each with its text's digest and the digest that its split goes by.

        The latter is that of a text's first piece, so that all pieces of a text are on one side.
        """
        for document in documents:
            self.counts["read"] += not document.piece
            text = self._normalised(self._without_controls(document.text))
            for number, piece in enumerate(self._cut(text)):
                if not document.piece and not number:
                    self._pieces = 0
                if len(piece.strip()) < self.min_chars:
                    self.counts["too_short"] += 1
                    continue
                digest = text_digest(piece)
                self._first = digest if self._pieces == 0 else self._first
                self.counts["split"] += self._pieces == 1
                yield self._named(document, piece), digest, self._first
                self._pieces += 1

    def _named(self, document: Document, text: str) -> Document:
        if not self._pieces:
            return document if text is document.text else replace(document, text=text)
        return replace(document, text=text, id=f"{document.id}#{self._pieces}", piece=self._pieces)

    def _cut(self, text: str) -> Iterator[str]:
        # Four bytes a character at most: only long texts need to be encoded to be measured.
        if len(text) * 4 > self.max_doc_bytes and len(raw := text.encode()) > self.max_doc_bytes:
            for piece in cut_bytes(io.BytesIO(raw), self.max_doc_bytes):
                yield from cut_runs(piece.decode())
        else:
            yield from cut_runs(text)

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
