"""Train the router over the frozen experts."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.router import RouterStage
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="router", task_run_name="{stage.name}", **OPTIONS)
def router(stage: RouterStage, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Train the router over the frozen experts, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
