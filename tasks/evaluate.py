"""Score the test split."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.evaluate import Evaluate
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="evaluate", task_run_name="evaluate", **OPTIONS)
def evaluate(stage: Evaluate, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Score the test split, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
