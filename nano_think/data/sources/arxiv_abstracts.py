"""Abstracts of all sciences from arXiv, oldest first: the design's arxiv_abstracts."""

from nano_think.data.hub import HubSource, Row
from nano_think.data.sources import SOURCES


def paper(row: Row) -> str:
    """Title, blank line, abstract, without arXiv's hard line ends; empty if there is no abstract."""
    title, abstract = (" ".join((row[column] or "").split()) for column in ("title", "abstract"))
    return f"{title}\n\n{abstract}".lstrip() if abstract else ""


@SOURCES.register("arxiv_abstracts")
class ArxivAbstracts(HubSource):
    """One document per paper."""

    name = "arxiv_abstracts"
    domain = "academic"
    licence = "CC0-1.0 (arXiv's metadata, abstracts among them)"
    citation = "Clement et al. 2019, On the Use of ArXiv as a Dataset, arXiv:1905.00075"
    dataset = "gfissore/arxiv-abstracts-2021"
    revision = "783a340c8a8519e7325f0391e751ca0b238e5ca5"
    files = "arxiv-abstracts.jsonl.gz"
    columns = ("title", "abstract")
    rows = 10_000

    def text(self, row: Row) -> str:
        return paper(row)
