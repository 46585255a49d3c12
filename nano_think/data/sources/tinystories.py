"""Short stories in the words of small children, written by language models: the design's tinystories."""

from nano_think.data.hub import HubSource
from nano_think.data.sources import SOURCES


@SOURCES.register("tinystories")
class TinyStories(HubSource):
    """One document per story."""

    name = "tinystories"
    domain = "general"
    licence = "CDLA-Sharing-1.0"
    citation = "Eldan and Li 2023, TinyStories, arXiv:2305.07759"
    dataset = "roneneldan/TinyStories"
    revision = "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
    files = "data/train-*.parquet"
    columns = ("text",)
    rows = 10_000
    stand_in = "wikipedia_leads"
