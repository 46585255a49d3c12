"""Take a trained model for the base, or train one that has its parts from the beginning."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.stage import Context, Stage
from tasks import OPTIONS


@task(name="base", task_run_name="base", **OPTIONS)
def base(stage: Stage, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Take a trained model for the base, or train one that has its parts from the beginning."""
    return stage.run(root, inputs, context)
