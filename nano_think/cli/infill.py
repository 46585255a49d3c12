"""`nano-think infill`: what stands in a gap of a text, by the diffuser in sight of both sides."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean
from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.experts.diffuser import Diffuser
from nano_think.inference.blocks import fill_gap
from nano_think.models.checkpoint import load_mixture
from nano_think.models.think import NanoThink
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class InfillArguments:
    """Fill a gap in a text."""

    before: str
    """What comes before the gap."""
    after: str
    """What comes after it."""
    tokens: int = 8
    """Length of the gap (tokens)."""
    steps: int = 10
    """Answers of the denoiser for each block (DDIM steps)."""
    samples: int = 1
    """Ways to fill it that are shown (samples)."""
    seed: int = 0
    """Seed of the draws."""
    model: str = "latest"
    """"latest" (the newest finished pipeline under --root) or the folder of a trained router."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        for name in ("tokens", "steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: wanted at least 1, got {getattr(self, name)}")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(InfillArguments, "infill", arguments)
    artifact, _ = find_model(wanted.model, wanted.root)
    model, shape = load_mixture(artifact.path)
    filled = _fill(wanted, model, shape.window, Tokenizer.load(artifact.path))
    for text in filled if not wanted.json else ():
        print(f"{clean(wanted.before)}[{clean(text)}]{clean(wanted.after)}")
    if wanted.json:
        print(json.dumps({"before": wanted.before, "after": wanted.after, "filled": filled}, ensure_ascii=False))
    return 0


def _fill(wanted: InfillArguments, model: NanoThink, window: int, tokenizer: Tokenizer) -> list[str]:
    expert = next((one for one in model.experts.values() if isinstance(one, Diffuser)), None)
    if expert is None:
        raise UsageError(f"infill: wanted a model with a diffuser, got one of {', '.join(model.names)}")
    before, after = tokenizer.encode_document(wanted.before), tokenizer.encode(wanted.after)
    if len(after) + wanted.tokens >= window:
        length = len(after) + wanted.tokens
        raise UsageError(f"infill: wanted gap and --after below the window of {window} tokens, got {length}")
    before_BT = torch.tensor([before[-(window - len(after) - wanted.tokens) :]]).expand(wanted.samples, -1)
    drawn_BT = fill_gap(
        expert, model.head, before_BT, torch.tensor([after], dtype=torch.long).expand(wanted.samples, -1),
        model.start_token, wanted.tokens, wanted.steps, torch.Generator().manual_seed(wanted.seed),
        block=max(expert.config.blocks),
    )  # fmt: skip
    return [tokenizer.decode(row) for row in drawn_BT.tolist()]
