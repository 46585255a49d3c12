"""`nano-think eval`: bits per byte of users' own text."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nano_think.cli.arguments import parse_arguments
from nano_think.core.device import ComputeConfig, pick_device, set_up
from nano_think.core.errors import InputError
from nano_think.data.source import BadLines
from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.bits_per_byte import score, summarise
from nano_think.evaluation.documents import file_documents
from nano_think.evaluation.overlap import SEEN, find_overlap
from nano_think.models.checkpoint import load_model
from nano_think.stages.artifact import Artifact, ancestor, find_model
from nano_think.stages.calibration import find_controls
from nano_think.stages.memory import load_memories

# What --json prints: other programs read it, so that nothing is added or left out.
KEYS = ("bits_per_byte", "experts", "uniform", "dense", "memory", "calibrated", "domains", "documents", "bytes")


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """Bits per byte of documents: the mixture (memory off), each expert alone, their equal sum, the dense control where
    there is one, and the memories.
    """

    data: tuple[Path, ...]
    """JSON lines files, plain or gzip, with a "text" in each row; the domain is the name of the file's folder."""
    model: str = "latest"
    """"latest" (the newest mixture under --root), "chat-latest" (the newest chat model), or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    bad_lines: BadLines = "error"
    """What an unusable line does: "error" stops, "skip" leaves it out."""
    memory: bool = True
    """Also score with the model's memories, which takes longer."""
    allow_overlap: bool = False
    """Score documents too that the model was made from, which are refused otherwise: it may know them by heart."""
    json: bool = False
    """Print one JSON object with all figures on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(EvalArguments, "eval", arguments)
    artifact, memory = find_model(wanted.model, wanted.root)
    remark = _overlap(wanted, artifact)
    device = pick_device("auto")
    set_up(ComputeConfig(), device)
    model, shape = load_model(artifact.path)
    documents = file_documents(wanted.data, Tokenizer.load(artifact.path), wanted.bad_lines)
    memories = load_memories(memory) if memory and wanted.memory else None
    model.to(device)
    frame = score(model, documents, shape.window, memories, _note(), controls=find_controls(artifact, model))
    figures = summarise(frame, model.names)
    if remark:
        print(f"note: {remark}", file=sys.stderr)
    if wanted.json:
        print(json.dumps({name: figures[name] for name in KEYS}))
    else:
        _show(figures)
    return 0


def _overlap(wanted: EvalArguments, model: Artifact) -> str | None:
    """Refuse documents that the model was made from; what to know about the figures, if anything."""
    text = ancestor(model, "tokens", "ingest")
    if not text or SEEN not in text.manifest["files"]:
        return "not checked whether the model was made from these documents, for its own text is not beside it"
    text.verify(SEEN)
    settings = {name: text.manifest["config"][name] for name in ("min_chars", "max_doc_bytes")}
    overlap = find_overlap(wanted.data, wanted.bad_lines, text.path / SEEN, settings)
    if overlap.found and not wanted.allow_overlap:
        raise InputError(f"{overlap.told}; take them out, or pass --allow-overlap")
    return overlap.told if overlap.found else None


def _note():
    done = 0

    def note(tokens: int) -> None:
        nonlocal done
        done += tokens
        if sys.stderr.isatty():
            print(f"\r{done:,} tokens", end="", file=sys.stderr, flush=True)

    return note


def _show(figures: dict[str, Any]) -> None:
    # Without lines eight columns fit into 80 letters.
    table = Table(title="bits per byte (lower is better)", box=None, padding=(0, 1, 0, 0))
    dense = ["dense"] if figures["dense"] is not None else []
    names = [*figures["experts"], "uniform", "mixture", *dense]
    table.add_column("domain")
    for name in [*names, "bytes"]:
        table.add_column(name.replace("_", " "), justify="right")
    rows = [*figures["domains"].items(), ("all", figures)]
    if figures["calibrated"]:
        rows.append(("calibrated", figures["calibrated"] | {"bytes": figures["bytes"]}))
    for domain, part in rows:
        values = [*part["experts"].values(), part["uniform"], part["bits_per_byte"], *(part[name] for name in dense)]
        table.add_row(domain, *(f"{value:.3f}" for value in values), f"{part['bytes']:,}")
    console = Console()
    console.print(table)
    for kind, values in (figures["memory"] or {}).items():
        console.print(f"with {kind} memory {values['mixture']:.3f}, its values shuffled {values['shuffled']:.3f}")
