"""Read, clean, deduplicate and split the text."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.ingest import Ingest
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="ingest", task_run_name="ingest", **OPTIONS)
def ingest(stage: Ingest, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Read, clean, deduplicate and split the text, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
