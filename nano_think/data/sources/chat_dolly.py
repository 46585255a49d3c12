"""Instructions and answers written by people: one question, one answer per chat."""

from typing import Any

from nano_think.data.chat import to_text
from nano_think.data.hub import HubSource
from nano_think.data.sources import SOURCES


@SOURCES.register("dolly")
class Dolly(HubSource):
    """One chat per row."""

    name = domain = "dolly"
    licence = "CC BY-SA 3.0"
    citation = "Conover et al. 2023, Free Dolly"
    dataset = "databricks/databricks-dolly-15k"
    files = "databricks-dolly-15k.jsonl"
    columns = ("instruction", "context", "response")
    rows = 15_011
    form = "chat"
    groups = ()

    def text(self, row: dict[str, Any]) -> str:
        question = "\n\n".join(part for part in (row["instruction"], row["context"]) if part)
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": row["response"]}]
        return to_text(said) if row["response"].strip() else ""
