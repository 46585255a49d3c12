"""Read and clean the chats."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.chats import Chats
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="chats", task_run_name="chats", **OPTIONS)
def chats(stage: Chats, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Read and clean the chats, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
