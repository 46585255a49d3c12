"""Learn the vocabulary."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.stage import Context
from nano_think.stages.tokenizer import TrainTokenizer
from tasks import OPTIONS


@task(name="tokenizer", task_run_name="tokenizer", **OPTIONS)
def tokenizer(stage: TrainTokenizer, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Learn the vocabulary, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
