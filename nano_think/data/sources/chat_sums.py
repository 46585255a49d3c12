"""Sums as chats: part of the starter for those who have no chats."""

from collections.abc import Iterator
from itertools import islice

from nano_think.data.chat import to_text
from nano_think.data.chat_made import LICENCE, sums
from nano_think.data.document import Document
from nano_think.data.source import Source
from nano_think.data.sources import SOURCES

CHATS = 4_000


@SOURCES.register("sums")
class Sums(Source):
    """One sum per chat."""

    name = domain = "sums"
    licence = LICENCE
    form = "chat"
    groups = ("starter_chat",)

    @property
    def origin(self) -> str:
        return f"{CHATS:,} sums, those of nano_think.data.chat_made that are not held out"

    def documents(self) -> Iterator[Document]:
        for number, (question, answer) in enumerate(islice(sums(held_out=False), CHATS)):
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield Document(to_text(said), self.name, f"{self.name}/{number}", self.domain)
