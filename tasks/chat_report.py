"""Write the chat report."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.chat_report import ChatReport
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="chat_report", task_run_name="chat_report", **OPTIONS)
def chat_report(stage: ChatReport, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Write the chat report, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
