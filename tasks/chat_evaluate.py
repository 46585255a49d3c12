"""Measure the chat model."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.chat_evaluate import ChatEvaluate
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="chat_evaluate", task_run_name="chat_evaluate", **OPTIONS)
def chat_evaluate(stage: ChatEvaluate, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Measure the chat model, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
