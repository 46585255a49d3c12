"""Abstracts of machine learning papers from arXiv: the design's ml_arxiv."""

from nano_think.data.hub import HubSource, Row
from nano_think.data.sources import SOURCES
from nano_think.data.sources.arxiv_abstracts import paper


@SOURCES.register("ml_arxiv")
class MlArxiv(HubSource):
    """One document per paper."""

    name = "ml_arxiv"
    domain = "academic"
    licence = "AFL-3.0 (as its card says; the abstracts are arXiv's metadata, CC0-1.0)"
    citation = "Shorten 2022, ML-ArXiv-Papers, from arXiv's metadata"
    dataset = "CShorten/ML-ArXiv-Papers"
    revision = "c878972daa0a5ec5f0d684354b6c8018f27d1316"
    files = "ML-Arxiv-Papers.csv"
    columns = ("title", "abstract")
    rows = 10_000

    def text(self, row: Row) -> str:
        return paper(row)
