"""The text that `stats` and `preview` look at: of a run, or read for the moment."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nano_think.cli.arguments import ingest_defaults, parse_arguments
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.stages.artifact import find_text


@dataclass(frozen=True, kw_only=True)
class TextArguments:
    """Which text: of a run, unless --preset, --sources or another --ingest flag names some."""

    root: Path = Path("artifacts")
    """Artifact root of the run."""
    text: str = "latest"
    """"latest" (of the newest finished run under --root or, if there is none, of one under way) or the folder of an
    ingest artifact."""
    preset: str | None = None
    """Read this preset's sources now, into a temporary folder that is removed at the end."""
    ingest: IngestConfig = IngestConfig()
    """Read these sources now, too; --sources and --offline-ok work without "ingest."."""


A = TypeVar("A", bound=TextArguments)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Ingested documents, and what has been made of them so far."""

    what: str
    """How it is called."""
    folder: Path
    """The document shards."""
    summary: dict[str, Any]
    """What ingestion counted."""
    tokens: dict[str, Any] | None = None
    """What tokenization counted."""
    tokenizer: Path | None = None
    """The folder of the tokenizer that was trained on it."""


@contextmanager
def corpus(kind: type[A], verb: str, arguments: list[str]) -> Iterator[tuple[A, Corpus]]:
    """Parse the arguments of a verb, an instance of `kind`, and open the text that they name for the block."""
    named = ingest_defaults(arguments)
    wanted = parse_arguments(kind, verb, arguments, kind(ingest=named or IngestConfig()))
    if not named:
        yield wanted, _of_run(wanted)
        return
    with tempfile.TemporaryDirectory(prefix="nano_think-data-") as folder:
        summary = ingest(wanted.ingest, Path(folder), lambda line: print(line, file=sys.stderr, flush=True))
        yield wanted, Corpus(what=" ".join(wanted.ingest.sources), folder=Path(folder), summary=summary)


def _of_run(wanted: TextArguments) -> Corpus:
    found = find_text(wanted.text, wanted.root)
    text = found["ingest"]
    return Corpus(
        what=str(text.path),
        folder=text.path,
        summary=text.summary,
        tokens=found["tokens"].summary if "tokens" in found else None,
        tokenizer=found["tokenizer"].path if "tokenizer" in found else None,
    )
