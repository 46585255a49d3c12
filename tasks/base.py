"""Take a trained model for the base."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.sft import Reused
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="base", task_run_name="base", **OPTIONS)
def base(stage: Reused, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Take a trained model for the base."""
    return stage.run(root, inputs, context)
