"""Filling a gap: is a drawn token the one that stood there, in sight of both sides, of one, or of a wrong one?

    python benchmarks/infill.py [--model latest] [--root artifacts] [--gaps 300] [--json]

Gaps are cut into documents of the test split of the text that a trained mixture was made from, with --context tokens on
either side, and its diffuser fills them as `nano-think infill` does: `both`. `before` is without the text that follows,
`other` with the text that follows another gap, whose gain over `before` ought to be none. The figure is the share of
drawn tokens that are right, with the 95% interval over gaps (bootstrap), and of `both` over `before` paired.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nano_think.data.tokens import TokenSet
from nano_think.evaluation.documents import split_documents
from nano_think.experts.diffuser import Diffuser
from nano_think.inference.blocks import fill_gap
from nano_think.models.checkpoint import load_mixture
from nano_think.models.think import NanoThink
from nano_think.stages.artifact import ancestor, find_model

DRAWS = 8


class Gap(NamedTuple):
    """A gap's tokens, and those before and after it."""

    before: list[int]
    stood: list[int]
    after: list[int]


def main() -> None:
    wanted = arguments()
    torch.set_num_threads(wanted.threads)
    artifact, _ = find_model(wanted.model, wanted.root)
    tokens = ancestor(artifact, "tokens")
    if tokens is None:
        sys.exit(f"benchmark: {artifact.path}: its tokens are not below the same root; run the pipeline again")
    model, _ = load_mixture(artifact.path)
    expert = next((one for one in model.experts.values() if isinstance(one, Diffuser)), None)
    if expert is None:
        sys.exit(f"benchmark: wanted a model with a diffuser, got one of {', '.join(model.names)}")
    found = {}
    for size in wanted.sizes:
        gaps = cut(TokenSet.open(tokens.path, "test"), wanted.gaps, wanted.context, size)
        for steps in wanted.steps:
            name = f"{size} tokens, {steps} steps"
            found[name] = measured(model, expert, gaps, steps)
            print(f"{name}, {len(gaps)} gaps: {found[name]}", flush=True)
    if wanted.json:
        print(json.dumps(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="latest", help="'latest' or the folder of a trained router")
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="artifact root")
    parser.add_argument("--gaps", type=int, default=300, help="one in a document, at most")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="of a gap (tokens)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10], help="answers of the denoiser for each block")
    parser.add_argument("--context", type=int, default=48, help="on either side (tokens)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser.parse_args()


def cut(text: TokenSet, count: int, context: int, size: int) -> list[Gap]:
    """Gaps in the middle of documents that are long enough."""
    gaps = []
    for document in split_documents(text, len(text), seed=0):
        ids, first = document.tokens.tolist(), (len(document.tokens) - size) // 2
        if first > context and len(gaps) < count:
            before, after = ids[first - context : first], ids[first + size : first + size + context]
            gaps.append(Gap(before, ids[first : first + size], after))
    return gaps


def measured(model: NanoThink, expert: Diffuser, gaps: list[Gap], steps: int) -> dict[str, list[float]]:
    """The share of right tokens for each sight of a gap: mean and interval; and the gains over `before`."""
    others = [gaps[(number + 1) % len(gaps)].after for number in range(len(gaps))]
    sights = {"both": [gap.after for gap in gaps], "before": [[]] * len(gaps), "other": others}
    right = {
        name: np.array([right_of(model, expert, gap, after, steps) for gap, after in zip(gaps, afters, strict=True)])
        for name, afters in sights.items()
    }
    gains = {f"{name} - before": right[name] - right["before"] for name in ("both", "other")}
    return {name: interval(values) for name, values in (right | gains).items()}


def right_of(model: NanoThink, expert: Diffuser, gap: Gap, after: list[int], steps: int) -> float:
    """The share of tokens that are right over `DRAWS` draws."""

    def rows(ids: list[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long).expand(DRAWS, -1)

    drawn_BK = fill_gap(
        expert, model.head, rows(gap.before), rows(after), model.start_token, len(gap.stood), steps,
        torch.Generator().manual_seed(0), block=max(expert.config.blocks),
    )  # fmt: skip
    return float((drawn_BK == torch.tensor(gap.stood)).float().mean())


def interval(values: np.ndarray) -> list[float]:
    """Mean, and the middle 95% of means of as many values drawn anew."""
    dice = np.random.default_rng(0)
    means = values[dice.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    return [round(float(one), 4) for one in (values.mean(), *np.quantile(means, (0.025, 0.975)))]


if __name__ == "__main__":
    main()
