"""Train the dense control."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.dense import Dense
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="dense", task_run_name="dense", **OPTIONS)
def dense(stage: Dense, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Train the dense control, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
