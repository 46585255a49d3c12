"""`nano-think generate`: stream text from a trained mixture."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean, flush_text
from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.detokenizer import StreamDecoder
from nano_think.inference.engine import Step, generate
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.checkpoint import load_mixture
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Write on from a prompt."""

    prompt: str
    """The beginning of the text."""
    model: str = "latest"
    """"latest" (the newest finished pipeline under --root) or the folder of a trained router."""
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
    model, shape = load_mixture(artifact.path)
    tokenizer = Tokenizer.load(artifact.path)
    prompt = tokenizer.encode_document(wanted.prompt)
    decoder, text, steps = StreamDecoder(), [], []
    speak = not (wanted.json or wanted.show_routing)
    if speak:
        flush_text(wanted.prompt)
    if wanted.show_routing and not wanted.json:
        print("  ".join(["weight of", *model.names]))
    for step in generate(model, prompt, shape.window, wanted.max_new_tokens, wanted.sampling):
        piece = decoder.feed(tokenizer.token_bytes(step.token))
        text.append(piece)
        steps.append(step)
        if speak:
            flush_text(piece)
        elif not wanted.json:
            print(_routing_line(step, tokenizer))
    text.append(decoder.end())
    if speak:
        flush_text(text[-1] + "\n")
    if wanted.json:
        print(json.dumps(_as_json(wanted.prompt, "".join(text), steps, tokenizer, model.names), ensure_ascii=False))
    return 0


def _routing_line(step: Step, tokenizer: Tokenizer) -> str:
    weights = "  ".join(f"{weight:.3f}" for weight in step.weights)
    return f"{weights}  {clean(tokenizer.decode([step.token]))!r}"


def _as_json(prompt: str, text: str, steps: list[Step], tokenizer: Tokenizer, names: list[str]) -> dict:
    tokens = [
        {
            "id": step.token,
            "text": tokenizer.decode([step.token]),
            "weights": dict(zip(names, step.weights, strict=True)),
        }
        for step in steps
    ]
    return {"prompt": prompt, "text": text, "tokens": tokens}
