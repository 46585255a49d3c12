"""Build the mixture's persistent memory."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.memory import Memory
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="memory", task_run_name="memory", **OPTIONS)
def memory(stage: Memory, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Build the mixture's persistent memory, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
