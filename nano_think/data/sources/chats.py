"""Chats of the user's own: `chats:GLOB` for rows of {"messages": [{"role", "content"}]}, with "source" and "id"."""

from collections.abc import Iterator

from nano_think.core.errors import InputError
from nano_think.data.chat import to_text
from nano_think.data.document import Document
from nano_think.data.jsonl_reader import jsonl_objects
from nano_think.data.source import Reading, Source
from nano_think.data.sources import SOURCES
from nano_think.data.sources.files import File, matches


@SOURCES.register("chats")
class ChatLines(File):
    """One chat per row of a .jsonl or .jsonl.gz file; its domain is the file's own name."""

    kind = "chats"
    form = "chat"

    def __init__(self, path, reading: Reading):
        super().__init__(path, reading)
        self.domain = self.stem

    @classmethod
    def from_spec(cls, argument: str, reading: Reading) -> list[Source]:
        return [cls(path, reading) for path in matches("chats", argument)]

    def documents(self) -> Iterator[Document]:
        self.skipped.clear()
        found = 0
        for number, row in enumerate(jsonl_objects(self.path), 1):
            try:
                text = to_text(row.get("messages"))
            except InputError as error:
                if self.reading.bad_lines == "error":
                    raise InputError(f"{self.path}: row {number}: {error}; mend it, or skip bad lines") from None
                self.skipped["not_a_chat"] += 1
                continue
            found += 1
            identity = f"{self.stem}:{number}" if row.get("id") is None else str(row["id"])
            yield Document(text, str(row.get("source") or self.stem), identity, self.domain)
        if not found:
            raise InputError(f'no chat in {self.path}; wanted lines like {{"messages": [{{"role": "user", ...}}]}}')
