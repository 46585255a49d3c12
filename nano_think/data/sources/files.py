"""Files of the user's own: `jsonl:GLOB` for rows of {"text", "source", "id"}, `text:GLOB` for one document per file."""

import functools
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from nano_think.core.errors import InputError, UsageError
from nano_think.core.files import sha256
from nano_think.data.cutting import cut_bytes
from nano_think.data.document import Document
from nano_think.data.jsonl_reader import UTF8_MARK, jsonl_rows, opened
from nano_think.data.source import Reading, Source
from nano_think.data.sources import SOURCES


def matches(kind: str, pattern: str) -> list[Path]:
    """The files that a glob names, sorted; `InputError` when there is none, `UsageError` when there is no pattern."""
    if not pattern:
        raise UsageError(f"source '{kind}' wants files: '{kind}:PATH/*.{kind}'")
    found = sorted(Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True))
    files = [path for path in found if path.is_file()]
    if not files and found:
        raise InputError(f"{kind}:{pattern}: a folder; name the files in it: '{kind}:{pattern.rstrip('/')}/*'")
    if not files:
        raise InputError(f"{kind}:{pattern}: no file matches; quote the pattern and check the folder")
    return files


class File(Source):
    """One file; its domain is the name of the folder that it lies in."""

    licence = "as given by the user"
    kind: ClassVar[str]

    def __init__(self, path: Path, reading: Reading):
        super().__init__()
        self.path = path
        self.reading = reading
        self.stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        self.domain = path.resolve().parent.name or "text"
        self.name = f"{self.domain}/{self.stem}"

    @property
    def spec(self) -> str:
        return f"{self.kind}:{glob.escape(str(self.path.absolute()))}"

    @property
    def size(self) -> int:
        # What is packed unpacks to some four times its size.
        return self.path.stat().st_size * (4 if self.path.suffix == ".gz" else 1)

    @functools.cached_property
    def origin(self) -> str:
        with opened(self.path):  # a clear error for a file that cannot be read
            return f"{self.path.name}, sha256 {sha256(self.path)}"


@SOURCES.register("jsonl")
class JsonLines(File):
    """One document per row of a .jsonl or .jsonl.gz file."""

    kind = "jsonl"

    @classmethod
    def from_spec(cls, argument: str, reading: Reading) -> list[Source]:
        return [cls(path, reading) for path in matches("jsonl", argument)]

    def documents(self) -> Iterator[Document]:
        self.skipped.clear()
        limit = self.reading.max_doc_bytes
        for number, row in jsonl_rows(self.path, self.reading.bad_lines, max_bytes=limit, skipped=self.skipped):
            identity = f"{self.stem}:{number}" if row.get("id") is None else str(row["id"])
            yield Document(row["text"], row.get("source") or self.stem, identity, self.domain, row.get("piece", 0))


@SOURCES.register("text")
class PlainText(File):
    """One document per plain text file; a long one comes in pieces."""

    kind = "text"

    @classmethod
    def from_spec(cls, argument: str, reading: Reading) -> list[Source]:
        return [cls(path, reading) for path in matches("text", argument)]

    def documents(self) -> Iterator[Document]:
        before = 0
        with opened(self.path) as file:
            for number, piece in enumerate(cut_bytes(file, self.reading.max_doc_bytes)):
                raw = piece.removeprefix(UTF8_MARK) if number == 0 else piece
                try:
                    yield Document(raw.decode(), self.stem, self.path.name, self.domain, number)
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{raw[error.start]:02x} at offset {before + len(piece) - len(raw) + error.start}"
                    raise InputError(f"{self.path}: {byte} is not UTF-8; save the file as UTF-8") from None
                before += len(piece)
