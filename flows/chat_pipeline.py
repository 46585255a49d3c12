"""The chat pipeline: text and chats in, a model that one can talk to and a report out."""

from pathlib import Path
from typing import Any

from prefect import Task, flow

from flows.full_pipeline import TASKS, walk
from nano_think.stages.artifact import Artifact
from nano_think.stages.chat_pipeline import chat_plan, chat_title, load_chat_config
from nano_think.stages.chat_session import finish_chat
from nano_think.stages.session import open_session
from tasks.base import base
from tasks.chat_evaluate import chat_evaluate
from tasks.chat_report import chat_report
from tasks.chat_tokens import chat_tokens
from tasks.chats import chats
from tasks.sft import sft

STAGES: tuple[Task[..., Artifact], ...] = (base, chats, chat_tokens, sft, chat_evaluate, chat_report)
CHAT_TASKS = TASKS | {task.name: task for task in STAGES}


@flow(name="chat-pipeline", flow_run_name="{preset}", validate_parameters=False, persist_result=False)
def chat_pipeline(
    preset: str = "chat", overrides: dict[str, Any] | None = None, root: str = "artifacts"
) -> dict[str, Artifact]:
    """Run every stage of a chat preset; return the artifacts by stage.

    overrides: nested settings laid over the preset, as in a configuration file.
    """
    config = load_chat_config(preset, overrides or {})
    with open_session(Path(root), preset, config) as session:
        artifacts = walk(chat_plan(config, Path(root), chat_title(preset, config)), session, tasks=CHAT_TASKS)
        finish_chat(session, artifacts)
    return artifacts
