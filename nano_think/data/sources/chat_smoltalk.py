"""Conversations of several turns, written by language models."""

from typing import Any

from nano_think.data.chat import to_text
from nano_think.data.hub import HubSource
from nano_think.data.sources import SOURCES


@SOURCES.register("smoltalk")
class SmolTalk(HubSource):
    """One chat per row."""

    name = domain = "smoltalk"
    licence = "Apache-2.0"
    citation = "Allal et al. 2025, SmolLM2, arXiv:2502.02737"
    dataset = "HuggingFaceTB/smol-smoltalk"
    files = "data/train-*.parquet"
    columns = ("messages",)
    rows = 100_000
    form = "chat"
    groups = ()

    def text(self, row: dict[str, Any]) -> str:
        return to_text(row["messages"])
