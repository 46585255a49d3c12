"""What surrounds a chat run beside what surrounds every run: refusals before it, and its end."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from nano_think.evaluation.chat.tasks import parse_spec
from nano_think.stages.artifact import CHAT_LATEST, Artifact, find_model, write_latest
from nano_think.stages.chat_pipeline import ChatConfig
from nano_think.stages.chats import Chats
from nano_think.stages.ingest import Ingest
from nano_think.stages.session import Session


def check_chat(root: Path, config: ChatConfig) -> None:
    """Refuse at once what the run would refuse later, before there is a root."""
    for spec in config.evaluate.tasks:
        parse_spec(spec)
    if config.base:
        find_model(config.base, root)
    else:
        Ingest(config.ingest).settled()
    Chats(config.chats).settled()


def finish_chat(session: Session, artifacts: Mapping[str, Artifact]) -> None:
    """Make the run's model the newest chat model, and tell MLflow how good it is."""
    write_latest(session.root, artifacts, CHAT_LATEST)
    tracker, results = session.context.tracker, artifacts["chat_evaluate"].summary
    tracker.metrics(dict(_figures(results)), artifacts["sft"].summary["training"]["tokens"])
    tracker.tags({f"key.{name}": artifact.key for name, artifact in artifacts.items()})
    for name in ("chat_evaluate", "chat_report"):
        tracker.files(artifacts[name].path)


def _figures(results: Mapping) -> Iterator[tuple[str, float]]:
    for name, found in results["language"]["models"].items():
        yield f"chat/bits_per_byte/{name}", found["bits_per_byte"]
    for task, by_model in results["tasks"].items():
        for name, found in by_model.items():
            yield f"chat/tasks/{task}/{name}", found["score"]
