"""Make what an added stage makes."""

from pathlib import Path

from prefect import task

from nano_think.stages.added import AddedStage
from nano_think.stages.artifact import Artifact
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="added", task_run_name="{stage.name}", **OPTIONS)
def added(stage: AddedStage, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Make what an added stage makes, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
