"""Good and featured articles of Wikipedia, put together again from the lines of WikiText-103: the design's wikitext."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from nano_think.data.hub import HubSource, Row
from nano_think.data.sources import SOURCES

# " = Title = "; a section has two signs or more, " = = History = = ".
TITLE = re.compile(r" = (?!= ).*(?<! =) = ")


def articles(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line of each article, and its lines without the blank ones.

    An article begins at a title between two blank lines: tables and formulas have lines that look like one.
    """
    article: list[str] = []
    start, before = 0, ""
    for number, (line, after) in enumerate(pairwise(chain(lines, [""]))):
        if TITLE.fullmatch(line.rstrip("\n")) and not before.strip() and not after.strip():
            if article:
                yield start, article
            article = []
        if line.strip():
            start = start if article else number
            article.append(line.strip())
        before = line
    if article:
        yield start, article


@SOURCES.register("wikitext")
class WikiText(HubSource):
    """One document per article, with the dataset's own spacing (" , ", " @-@ ")."""

    name = "wikitext"
    domain = "general"
    licence = "CC BY-SA 3.0 and GFDL (Wikipedia contributors)"
    citation = "Merity et al. 2016, Pointer Sentinel Mixture Models, arXiv:1609.07843"
    dataset = "Salesforce/wikitext"
    revision = "b08601e04326c79dfdd32d625aee71d232d685c3"
    files = "wikitext-103-raw-v1/train-*.parquet"
    columns = ("text",)
    rows = 10_000
    stand_in = "wikipedia_leads"

    def texts(self, rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
        for number, lines in articles(row["text"] or "" for row in rows):
            yield number, "\n".join(lines)
