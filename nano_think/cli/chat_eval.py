"""`nano-think chat-eval`: how well a chat model talks, by tasks and by held-out chats."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nano_think.cli.arguments import parse_arguments
from nano_think.core.device import ComputeConfig, pick_device, set_up
from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.chat.scores import score
from nano_think.evaluation.chat.tasks import labels
from nano_think.models.checkpoint import load_model
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class ChatEvalArguments:
    """Scores of a model in questions with one right answer, each with its chance level, number of items and interval.

    Choices are told by likelihood, answers are the likeliest tokens, programs are run apart with limits.
    """

    tasks: tuple[str, ...] = ("spelling", "sums")
    """Names ("spelling" and "sums" are made here, others are read from the Hugging Face hub: arc_easy, arc_challenge,
    piqa, winogrande, copa, blimp, gsm8k, humaneval), or 'name:GLOB' for JSON lines files."""
    model: str = "chat-latest"
    """"chat-latest" (the newest chat model under --root), "latest" (the newest mixture), or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    items: int = 500
    """Most items of each task whose answers are written (items)."""
    choices: int = 5000
    """Most items of each task whose answers are told by likelihood, which takes far less (items)."""
    window: int = 0
    """Longest context; 0 = the one that the model was trained on (tokens)."""
    json: bool = False
    """Print one JSON object with all scores on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ChatEvalArguments, "chat-eval", arguments)
    for name in ("items", "choices"):
        if getattr(wanted, name) < 1:
            raise UsageError(f"--{name}: wanted at least 1, got {getattr(wanted, name)}")
    tasks = labels(wanted.tasks)
    artifact, _ = find_model(wanted.model, wanted.root)
    device = pick_device("auto")
    set_up(ComputeConfig(), device)
    model, shape = load_model(artifact.path)
    model.to(device)
    shape = replace(shape, window=wanted.window or shape.window)
    tokenizer = Tokenizer.load(artifact.path)
    scores = []
    for label, spec in tasks.items():
        one = score(model, tokenizer, shape.window, spec, wanted.items, wanted.choices)
        scores.append(one.to_dict() | {"task": label})
        print(f"{label}: {one.right} of {one.items:,}", file=sys.stderr, flush=True)
    if wanted.json:
        print(json.dumps({"model": str(artifact.path), "scores": scores}))
    else:
        _show(scores)
    return 0


def _show(scores: list[dict]) -> None:
    table = Table("task", "kind", "score", "95% interval", "chance", "items")
    for one in scores:
        interval = f"{one['low']:.1%} to {one['high']:.1%}"
        shares = (f"{one['score']:.1%}", interval, f"{one['chance']:.1%}", f"{one['items']:,}")
        table.add_row(one["task"], one["kind"], *shares)
    Console().print(table)
