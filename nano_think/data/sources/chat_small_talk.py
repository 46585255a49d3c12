"""Small talk, trivia and jokes, from a package that carries them as YAML: part of the starter for who has no chats."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import yaml

from nano_think.data.chat import to_text
from nano_think.data.document import Document
from nano_think.data.source import Source, package_file, package_version
from nano_think.data.sources import SOURCES

PACKAGE, VERSION = "chatterbot-corpus", "1.3.3"
FOLDER = "chatterbot_corpus/data/english"
# In all other files the lines after the first are different answers to it.
IN_TURNS = ("conversations", "health")


@SOURCES.register("small_talk")
class SmallTalk(Source):
    """One chat for each answer to a line, or for each conversation. The package's code is never imported."""

    name = domain = "small_talk"
    licence = "BSD-3-Clause (Gunther Cox and contributors)"
    form = "chat"
    groups = ("starter_chat",)

    @property
    def origin(self) -> str:
        return f"English part of {PACKAGE} {package_version(PACKAGE, VERSION)}"

    def documents(self) -> Iterator[Document]:
        folder = package_file(PACKAGE, VERSION, f"{FOLDER}/greetings.yml").parent
        for file in sorted(folder.glob("*.yml")):
            for number, lines in enumerate(_chats(file)):
                said = [{"role": role, "content": line} for role, line in zip(cycle(("user", "assistant")), lines)]
                yield Document(to_text(said), f"{self.name}:{file.stem}", f"{file.stem}/{number}", self.domain)


def _chats(file: Path) -> Iterator[list[str]]:
    for conversation in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
        first, *others = (str(line).strip() for line in conversation)
        if file.stem in IN_TURNS:
            yield [first, *others][: len(conversation) // 2 * 2]
        else:
            yield from ([first, answer] for answer in others if answer)
