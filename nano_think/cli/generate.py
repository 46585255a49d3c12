"""`nano-think generate`: stream text from a trained model."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.cli.prompt import read_prompt
from nano_think.core.console import clean, flush_text
from nano_think.core.device import Device, pick_device
from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.drafting import Drafter
from nano_think.inference.engine import Engine
from nano_think.inference.ranking import best_of
from nano_think.inference.request import Event, Memory, Request, parse_dials
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.checkpoint import load_model
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Write on from a prompt."""

    prompt: str | None = None
    """The beginning of the text."""
    file: Path | None = None
    """A text file in its place; - = standard input."""
    model: str = "latest"
    """"latest" (the newest mixture under --root), "chat-latest" (the newest chat model), or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    device: Device = "auto"
    """Device; "auto" takes CUDA, then MPS, then the CPU."""
    compile: bool = False
    """Compile the model's steps by torch.compile before the first answer; meant for a GPU."""
    max_new_tokens: int = 128
    """Longest continuation (tokens)."""
    stop: tuple[str, ...] = ()
    """Texts before the first of which the continuation ends."""
    memory: Memory = "off"
    """Whether what is remembered counts, and whether this text will be remembered."""
    namespace: str = "default"
    """Whose memory."""
    draft: str = ""
    """An expert that guesses tokens, of which the mixture keeps what it would have written itself; "" = none."""
    draft_tokens: int = 4
    """How many tokens it guesses at a time (tokens)."""
    draft_steps: int = 1
    """For a diffuser: in how many answers it denoises them (steps)."""
    best_of: int = 1
    """Write this many continuations, with seeds one after another, and show the one of the lowest energy (texts)."""
    psyche: str = ""
    """How far the modes of a chat model's psyche are turned up, as in id=-2,superego=4 (nats)."""
    show_routing: bool = False
    """Print each token on its own line with the weight of each expert."""
    json: bool = False
    """Print one JSON object, with the text and every token's weights, on the last line."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are drawn."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(GenerateArguments, "generate", arguments)
    if wanted.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens: wanted at least 1, got {wanted.max_new_tokens}")
    if wanted.best_of < 1:
        raise UsageError(f"--best-of: wanted at least 1, got {wanted.best_of}")
    if wanted.best_of > 1 and wanted.draft:
        raise UsageError("--best-of and --draft: wanted one of them; a drafter answers one request at a time")
    prompt = read_prompt(wanted.prompt, wanted.file)
    with ExitStack() as held:
        engine, tokenizer = _open(wanted, held)
        request = Request(
            prompt=tuple(tokenizer.encode_document(prompt)), max_new_tokens=wanted.max_new_tokens, stop=wanted.stop,
            sampling=wanted.sampling, memory=wanted.memory, namespace=wanted.namespace,
            psyche=parse_dials(wanted.psyche),
        )  # fmt: skip
        events = _heeded(engine.stream(request) if wanted.best_of == 1 else best_of(engine, request, wanted.best_of))
        if wanted.json:
            told = _as_json(prompt, list(events), tokenizer, engine.names)
            print(json.dumps(told, ensure_ascii=False))
        elif wanted.show_routing:
            _show_routing(events, tokenizer, engine.names)
        else:
            _speak(prompt, events)
    return 0


def _open(wanted: GenerateArguments, held: ExitStack) -> tuple[Engine, Tokenizer]:
    artifact, memory = find_model(wanted.model, wanted.root)
    model, shape = load_model(artifact.path)
    model.to(pick_device(wanted.device))
    tokenizer, memories = Tokenizer.load(artifact.path), None
    if wanted.memory != "off":
        # FAISS comes with it, for which nobody waits who wants no memory.
        from nano_think.cli.recall import open_memories

        memories = open_memories(wanted.root, artifact, memory, held)
    drafter = Drafter(model, wanted.draft, wanted.draft_tokens, wanted.draft_steps) if wanted.draft else None
    rows = min(wanted.best_of, 8)
    engine = Engine(
        model, tokenizer, shape.window, rows=rows, memories=memories, drafter=drafter, compiled=wanted.compile
    )  # fmt: skip
    return engine, tokenizer


def _heeded(events: Iterator[Event]) -> Iterator[Event]:
    """The events; an error among them is the command's, of an answer that stands behind it."""
    for event in events:
        if event.finish != "error":
            yield event
        if event.failure:
            raise event.failure


def _speak(prompt: str, events: Iterator[Event]) -> None:
    for event in events:
        flush_text(prompt + event.text)
        prompt = ""
    flush_text("\n")


def _show_routing(events: Iterator[Event], tokenizer: Tokenizer, names: list[str]) -> None:
    print("  ".join(["weight of", *names]))
    for event in events:
        if event.token is not None:
            weights = "  ".join(f"{weight:.3f}" for weight in event.weights)
            print(f"{weights}  {clean(tokenizer.decode([event.token]))!r}")


def _as_json(prompt: str, events: list[Event], tokenizer: Tokenizer, names: list[str]) -> dict:
    tokens = [
        {
            "id": event.token,
            "text": tokenizer.decode([event.token]),
            "weights": dict(zip(names, event.weights, strict=True)),
        }
        for event in events
        if event.token is not None
    ]
    return {"prompt": prompt, "text": "".join(event.text for event in events), "tokens": tokens}
