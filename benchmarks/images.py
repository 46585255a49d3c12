"""Pictures as input: does a chat model name a digit that it is shown, and what must learn for it?

    python benchmarks/images.py --model chat-latest [--root artifacts] [--seeds 1 2 3] [--steps 400] [--json]

scikit-learn's digits (8 x 8 pixels, patches of 2 x 2, so 16 positions before the word), a fifth held out by each seed.
The name is the likeliest of all tokens. Learning: the patches' linear map alone, so that the model's language stays bit
for bit as it was; that and the body; and, as a null, both on labels that were dealt anew among the pictures. Beside
them logistic regression on the pixels. Chance is the commonest label's share of what is held out; intervals are
Wilson's.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from nano_think.core.device import ComputeConfig, set_up
from nano_think.core.errors import UsageError
from nano_think.data.pictures import Pictures, digits, split
from nano_think.evaluation.chat.scores import Score
from nano_think.models.chat import Chat
from nano_think.models.sight import Sight
from nano_think.stages.opening import open_model
from nano_think.training.loop import seed_everything

SIDE, HELD_OUT, BATCH = 2, 0.2, 64
RATES = {"patches": 0.01, "body": 0.002}
WAYS = ("patches", "body", "shuffled")


def learn(chat: Chat, words: list[int], shown: Pictures, way: str, steps: int, seed: int) -> Sight:
    """Teach a copy of the model to name pictures, in one of `WAYS`."""
    seed_everything(seed)
    sight, dice = Sight(copy.deepcopy(chat), SIDE), np.random.default_rng(seed)
    labels_N = dice.permutation(shown.label_N) if way == "shuffled" else shown.label_N
    sight.chat.requires_grad_(way != "patches")
    groups = [{"params": list(sight.patches.parameters()), "lr": RATES["patches"]}]
    if way != "patches":
        groups.append({"params": list(sight.chat.parameters()), "lr": RATES["body"]})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        chosen = dice.integers(0, len(labels_N), BATCH)
        tokens_B2 = torch.tensor([[chat.start_token, words[label]] for label in labels_N[chosen]])
        optimizer.zero_grad()
        sight.nll(torch.from_numpy(shown.pixels_NHW[chosen]), tokens_B2).mean().backward()
        torch.nn.utils.clip_grad_norm_(sight.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return sight


def judge(named_N: np.ndarray, held: Pictures) -> dict[str, Any]:
    """Right names beside chance, with the interval."""
    chance = np.bincount(held.label_N).max() / len(held.label_N)
    right = int((named_N == held.label_N).sum())
    found = Score(task="digits", kind="answer", right=right, items=len(named_N), chance=float(chance)).to_dict()
    return {name: found[name] for name in ("score", "low", "high", "chance", "items")}


def compare(chat: Chat, words: list[int], steps: int, seed: int) -> dict[str, Any]:
    """Every way of learning with one seed."""
    shown, held = split(digits(), HELD_OUT, seed)
    label_of, pixels = {token: label for label, token in enumerate(words)}, torch.from_numpy(held.pixels_NHW)
    found = {}
    for way in WAYS:
        started = time.process_time()
        sight = learn(chat, words, shown, way, steps, seed)
        named = np.array([label_of.get(token, -1) for token in sight.name(pixels).tolist()])
        found[way] = judge(named, held) | {"cpu_seconds": time.process_time() - started}
    plain = LogisticRegression(max_iter=1000).fit(shown.pixels_NHW.reshape(len(shown.label_N), -1), shown.label_N)
    found["logistic"] = judge(plain.predict(held.pixels_NHW.reshape(len(held.label_N), -1)), held)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chat-latest")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    set_up(ComputeConfig(threads=wanted.threads), torch.device("cpu"))
    opened = open_model(wanted.model, wanted.root)
    if not isinstance(opened.model, Chat):
        raise UsageError("images: wanted a chat model with a body of its own")
    words = [opened.tokenizer.encode(str(label))[0] for label in range(10)]
    result: dict[str, Any] = {"steps": wanted.steps, "seeds": {}}
    for seed in wanted.seeds:
        result["seeds"][seed] = found = compare(opened.model, words, wanted.steps, seed)
        for way, one in found.items() if not wanted.json else ():
            told = f"{one['score']:.1%} ({one['low']:.1%} to {one['high']:.1%}), chance {one['chance']:.1%}"
            print(f"seed {seed}  {way:<9} {told}  of {one['items']}  {one.get('cpu_seconds', 0):.1f} CPU s", flush=True)
    if wanted.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
