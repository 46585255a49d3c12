"""Words to spell as chats: part of the starter for those who have no chats."""

from collections.abc import Iterator
from itertools import islice

from nano_think.data.chat import to_text
from nano_think.data.chat_made import LICENCE, Question, common_words, spellings
from nano_think.data.document import Document
from nano_think.data.source import Source
from nano_think.data.sources import SOURCES
from nano_think.data.sources.wikipedia_leads import WikipediaLeads

CHATS = 8_000


def questions(held_out: bool) -> Iterator[Question]:
    """Slips and words, of the encyclopaedia's words that are held out or of the others."""
    return spellings(common_words(document.text for document in WikipediaLeads().documents()), held_out)


@SOURCES.register("spelling")
class Spelling(Source):
    """One word per chat."""

    name = domain = "spelling"
    licence = LICENCE
    form = "chat"
    groups = ("starter_chat",)

    @property
    def origin(self) -> str:
        return f"up to {CHATS:,} words of {WikipediaLeads().origin}"

    def documents(self) -> Iterator[Document]:
        for number, (question, answer) in enumerate(islice(questions(held_out=False), CHATS)):
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield Document(to_text(said), self.name, f"{self.name}/{number}", self.domain)
