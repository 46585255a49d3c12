"""Write the page to look at."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.report import Report
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="report", task_run_name="report", **OPTIONS)
def report(stage: Report, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Write the page to look at, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
