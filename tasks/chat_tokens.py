"""Encode the chats."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.chats import ChatTokens
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="chat_tokens", task_run_name="chat_tokens", **OPTIONS)
def chat_tokens(stage: ChatTokens, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Encode the chats, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
