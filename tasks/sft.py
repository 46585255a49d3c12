"""Learn to chat."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.sft import Sft
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="sft", task_run_name="sft", **OPTIONS)
def sft(stage: Sft, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Learn to chat, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
