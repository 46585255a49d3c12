"""`nano-think generate`: stream text from a trained model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean, flush_text
from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.engine import Engine
from nano_think.inference.request import Event, Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.checkpoint import load_model
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Write on from a prompt."""

    prompt: str
    """The beginning of the text."""
    model: str = "latest"
    """"latest" (the newest mixture under --root), "chat-latest" (the newest chat model), or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    max_new_tokens: int = 128
    """Longest continuation (tokens)."""
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
    artifact, _ = find_model(wanted.model, wanted.root)
    model, shape = load_model(artifact.path)
    tokenizer = Tokenizer.load(artifact.path)
    prompt = tuple(tokenizer.encode_document(wanted.prompt))
    request = Request(prompt=prompt, max_new_tokens=wanted.max_new_tokens, sampling=wanted.sampling)
    engine, events = Engine(model, tokenizer, shape.window), []
    speak = not (wanted.json or wanted.show_routing)
    if speak:
        flush_text(wanted.prompt)
    if wanted.show_routing and not wanted.json:
        print("  ".join(["weight of", *model.names]))
    for event in engine.stream(request):
        events.append(event)
        if speak:
            flush_text(event.text)
        elif not wanted.json and event.token is not None:
            print(_routing_line(event.token, event.weights, tokenizer))
    if speak:
        flush_text("\n")
    if wanted.json:
        print(json.dumps(_as_json(wanted.prompt, events, tokenizer, model.names), ensure_ascii=False))
    return 0


def _routing_line(token: int, weight_K: tuple[float, ...], tokenizer: Tokenizer) -> str:
    weights = "  ".join(f"{weight:.3f}" for weight in weight_K)
    return f"{weights}  {clean(tokenizer.decode([token]))!r}"


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
