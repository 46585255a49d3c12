"""Train one expert in a process of its own."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.pretrain import Pretrain
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="pretrain", task_run_name="pretrain-{stage.name}", **OPTIONS)
def pretrain(stage: Pretrain, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Train one expert in a process of its own, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
