"""Encode every split."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.stage import Context
from nano_think.stages.tokens import Tokens
from tasks import OPTIONS


@task(name="tokens", task_run_name="tokens", **OPTIONS)
def tokens(stage: Tokens, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Encode every split, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
