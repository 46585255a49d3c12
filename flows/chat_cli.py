"""The verb that trains a chat model. Prefect is imported only when it runs."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nano_think.cli.verbs import Verb

if TYPE_CHECKING:
    from nano_think.stages.artifact import Artifact

SFT = Verb("a chat model: base, chats, figures and a report; what is finished is not done again", "flows.chat_cli:sft")


def sft(arguments: list[str]) -> int:
    """`nano-think sft`: the chat pipeline, without a server of the user's."""
    import yaml

    from nano_think.cli.arguments import chat_defaults, parse_arguments
    from nano_think.core.config import to_dict
    from nano_think.stages.chat_session import check_chat
    from nano_think.stages.session import check_room, hold

    preset, defaults = chat_defaults(arguments, "chat")
    kind = _arguments_kind()
    wanted = parse_arguments(kind, "sft", arguments, kind(preset=preset, pipeline=defaults))
    if wanted.print_config:
        print(yaml.safe_dump(to_dict(wanted.pipeline), sort_keys=False, allow_unicode=True), end="")
        return 0
    check_chat(wanted.root, wanted.pipeline)
    with hold(wanted.root):
        check_room(wanted.root)
        artifacts = run_chat_locally(preset, to_dict(wanted.pipeline), wanted.root)
    _tell(artifacts, wanted.root, wanted.json)
    return 0


def _arguments_kind() -> type:
    import tyro

    from nano_think.stages.chat_pipeline import ChatConfig

    @dataclass(frozen=True, kw_only=True)
    class SftArguments:
        """Train a chat model and report on it; what is finished already is not done again.

        Any setting below can be given as a flag, in a file with --config, or both: default < preset < file < flags.
        """

        preset: str = "chat"
        """Which settings to start from: chat-nano (a minute, for tests), chat-component (for measuring parts), chat (a
        laptop, a quarter of an hour)."""
        config: Path | None = None
        """File of settings laid over the preset: YAML, TOML, or Python, whose names at the top are settings."""
        root: Path = Path("artifacts")
        """Folder that all artifacts go to; a second run in it goes on where the first one stopped."""
        print_config: bool = False
        """Print the settings that result, as YAML, and do nothing."""
        json: bool = False
        """Print one JSON object with the places and figures of the run on the last line."""
        pipeline: Annotated[ChatConfig, tyro.conf.arg(name="")] = field(default_factory=ChatConfig)
        """Everything that the model depends on."""

    return SftArguments


def run_chat_locally(preset: str, overrides: dict[str, Any], root: Path) -> "dict[str, Artifact]":
    """Run the chat pipeline on Prefect's temporary API."""
    from flows.local import temporary_api

    with temporary_api(root) as wait_for_api:
        from flows.chat_pipeline import chat_pipeline
        from nano_think.stages.tracking_store import make_store

        make_store(root)
        wait_for_api()
        return chat_pipeline(preset=preset, overrides=overrides, root=str(root))


def _tell(artifacts: "dict[str, Artifact]", root: Path, as_json: bool) -> None:
    report, model = artifacts["chat_report"].path / "report.html", artifacts["sft"].path
    print(report.with_name("scores.md").read_text(encoding="utf-8"))
    print(f"report  {report}")
    print(f"model   {model}")
    where = "" if root == Path("artifacts") else f" --root {shlex.quote(str(root))}"
    print(f"talk    nano-think chat --model chat-latest{where}")
    if as_json:
        keys = {name: artifact.key for name, artifact in artifacts.items()}
        results = artifacts["chat_evaluate"].summary
        print(json.dumps({"model": str(model), "report": str(report), "artifacts": keys, "results": results}))
    sys.stdout.flush()
