"""Word problems with their steps; the last line is "#### " and the result."""

import re
from typing import Any

from nano_think.data.chat import to_text
from nano_think.data.hub import HubSource
from nano_think.data.sources import SOURCES


@SOURCES.register("gsm8k")
class GradeSchoolMath(HubSource):
    """One chat per row."""

    name = domain = "gsm8k"
    licence = "MIT"
    citation = "Cobbe et al. 2021, Training verifiers to solve math word problems, arXiv:2110.14168"
    dataset = "openai/gsm8k"
    files = "main/train-*.parquet"
    columns = ("question", "answer")
    rows = 7_473
    form = "chat"
    groups = ()

    def text(self, row: dict[str, Any]) -> str:
        # What a calculator was asked stands in double brackets: nobody says it.
        answer = re.sub(r"<<[^<>]*>>", "", row["answer"])
        return to_text([{"role": "user", "content": row["question"]}, {"role": "assistant", "content": answer}])
