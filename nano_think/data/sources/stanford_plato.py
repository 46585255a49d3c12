"""Entries of the Stanford Encyclopedia of Philosophy: the design's stanford_plato."""

from collections.abc import Iterator

from nano_think.data.hub import HubSource, Row
from nano_think.data.sources import SOURCES


def paragraphs(row: Row) -> Iterator[str | None]:
    """Title, preamble, then each section and subsection with its heading; contents and bibliography are no prose."""
    yield row["title"]
    yield from row["preamble"] or ()
    for section in row["main_text"] or ():
        yield section.get("section_title")
        yield from section.get("main_content") or ()
        for below in section.get("subsections") or ():
            yield below.get("subsection_title")
            yield from below.get("content") or ()


@SOURCES.register("stanford_plato")
class StanfordPlato(HubSource):
    """One document per entry, a blank line between its paragraphs."""

    name = "stanford_plato"
    domain = "philosophy"
    licence = "all rights reserved by the authors and the encyclopedia: to be read, not to be passed on"
    citation = "Stanford Encyclopedia of Philosophy, Metaphysics Research Lab, as collected in February 2023"
    dataset = "hugfaceguy0001/stanford_plato"
    revision = "1076853c2f3eefc47bba652dc00459018ce695d1"
    files = "data/train-*.parquet"
    columns = ("title", "preamble", "main_text")
    rows = 1_000

    def text(self, row: Row) -> str:
        flat = (" ".join((paragraph or "").split()) for paragraph in paragraphs(row))
        return "\n\n".join(filter(None, flat))
