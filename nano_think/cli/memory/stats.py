"""`nano-think memory stats`: what is remembered, of whom and for which model."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean, console
from nano_think.core.errors import ArtifactError
from nano_think.memory.journal import Journal, read_owner
from nano_think.memory.places import Place, places


@dataclass(frozen=True, kw_only=True)
class StatsArguments:
    """What is remembered, a line for each namespace and model; one that is damaged is told on standard error."""

    namespace: str | None = None
    """Only this one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(StatsArguments, "memory stats", arguments)
    found, damaged = list[dict[str, Any]](), list[ArtifactError]()
    for memory in places(wanted.root, wanted.namespace):
        try:
            found.append(_stats(memory))
        except ArtifactError as error:
            damaged.append(error)
        except OSError as error:
            damaged.append(ArtifactError(f"{memory.folder}: cannot be read ({error.strerror}); look what lies there"))
    if wanted.json:
        print(json.dumps({"memories": found}))
    elif found or not damaged:
        _show(found)
    for one in damaged[:-1]:
        print(f"nano-think: error: {clean(str(one))}", file=sys.stderr)
    # The last one is told as any verb's error is, with its exit code.
    if damaged:
        raise damaged[-1]
    return 0


def _stats(one: Place) -> dict[str, Any]:
    turns = list(Journal(one.folder, read_owner(one.folder)).read())
    written = [turn.written for turn in turns]
    return {
        "namespace": one.namespace,
        "model": one.model,
        "entries": sum(len(turn) for turn in turns),
        "stand_for": int(sum(turn.weight.sum() for turn in turns)),
        "documents": len({turn.document for turn in turns}),
        "turns": len(turns),
        "bytes": sum(path.stat().st_size for path in one.folder.iterdir()),
        "oldest": _day(min(written)) if written else None,
        "newest": _day(max(written)) if written else None,
        "folder": str(one.folder),
    }


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        print("nothing is remembered")
        return
    table = Table(title="memories of conversations")
    for name in ("namespace", "model", "entries", "stand for", "documents", "turns", "bytes", "newest"):
        table.add_column(name, justify="left" if name in ("namespace", "model", "newest") else "right")
    for one in found:
        counts = [f"{one[name]:,}" for name in ("entries", "stand_for", "documents", "turns", "bytes")]
        table.add_row(one["namespace"], one["model"][:12], *counts, one["newest"] or "")
    console().print(table)
