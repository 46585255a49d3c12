"""`nano-think memory export`: the text of every turn, as JSON lines."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import ArtifactError
from nano_think.core.files import replacing
from nano_think.data.tokenizer import Tokenizer
from nano_think.memory.journal import Journal, read_owner
from nano_think.memory.places import Place, places
from nano_think.stages.artifact import MANIFEST, open_artifact


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Print all that a namespace has said, one JSON object for each turn, the oldest first."""

    namespace: str
    """Whose."""
    out: Path | None = None
    """Write to this file in place of printing."""
    root: Path = Path("artifacts")
    """Artifact root; the text is told where it holds the model too, for the memory itself has token ids alone."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ExportArguments, "memory export", arguments)
    lines = (json.dumps(row) + "\n" for one in places(wanted.root, wanted.namespace) for row in _rows(one, wanted.root))
    if wanted.out is None:
        sys.stdout.writelines(lines)
        return 0
    with replacing(wanted.out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    return 0


def _rows(one: Place, root: Path) -> Iterator[dict[str, Any]]:
    tokenizer = _tokenizer(root, one.model)
    for turn in Journal(one.folder, read_owner(one.folder)).read():
        tokens = turn.tokens.tolist()
        yield {
            "namespace": one.namespace,
            "model": one.model,
            "document": turn.document,
            "position": turn.first,
            "time": turn.time,
            "written": turn.written,
            "entries": len(turn),
            "tokens": tokens,
            "text": tokenizer.decode(tokens) if tokenizer else None,
        }


def _tokenizer(root: Path, model: str) -> Tokenizer | None:
    """The tokenizer of the model with this digest, if it is under the root."""
    for manifest in (root / "router").glob(f"*/{MANIFEST}"):
        try:
            artifact = open_artifact(manifest.parent)
        except ArtifactError:
            continue
        if artifact.digest == model:
            return Tokenizer.load(artifact.path)
    return None
