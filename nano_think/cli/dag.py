"""`nano-think dag`: the graph of stages."""

from dataclasses import dataclass
from typing import Literal

from nano_think.cli.pipeline import PipelineArguments, pipeline_arguments
from nano_think.stages.graph import arrows, dot, draw, mermaid

FORMATS = {"text": draw, "mermaid": mermaid, "dot": dot}


@dataclass(frozen=True, kw_only=True)
class DagArguments(PipelineArguments):
    """Draw which stage needs which. An arrow that a longer way says too is left out."""

    format: Literal["text", "mermaid", "dot"] = "text"
    """For the terminal, or for Mermaid or Graphviz."""


def main(arguments: list[str]) -> int:
    wanted = pipeline_arguments(DagArguments, "dag", arguments)
    print(FORMATS[wanted.format](arrows(wanted.nodes())))
    return 0
