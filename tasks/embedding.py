"""Train the shared token table."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.embedding import Embedding
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="embedding", task_run_name="embedding", **OPTIONS)
def embedding(stage: Embedding, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Train the shared token table, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
