"""The diffuser's three likelihoods against the transformer at equal steps, on held-out text, for several seeds.

    python benchmarks/diffuser.py --seeds 1 2 3 --json

Trains both experts (and the token table) for each seed as the pipeline does, from the starter corpus, and keeps what it
has made under --root: a second run only evaluates. Bits per byte of the test split:

- one_step: the diffuser's query mode, exact; against the transformer on the same tokens.
- elbo_1: the diffusion bound with blocks of one, against one_step. Their posterior is Bayes' rule applied to the query,
  so this says how well the bound is drawn, and nothing about what the network learned.
- elbo, factorised: blocks of eight as a joint bound, and as independent tokens. Their difference is what denoising in
  steps knows of the dependence inside a block.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from nano_think.data.tokens import TokenSet
from nano_think.evaluation.diffuser import likelihoods
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.reading import Document, windows
from nano_think.experts import Expert, build_expert
from nano_think.heads.language import LanguageHead
from nano_think.models.embedder import load_head
from nano_think.nn.documents import number_documents
from nano_think.nn.weights import fill, load_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.pipeline import PipelineConfig, load, plan
from nano_think.stages.pretrain import WEIGHTS

STAGES = ("ingest", "tokenizer", "tokens", "embedding", "transformer", "diffuser")


def make(config: PipelineConfig, root: Path) -> dict[str, Artifact]:
    """Every stage up to the two experts, one after the other, each made once."""
    nodes, made = plan(config), {}
    for name in STAGES:
        made[name] = nodes[name].stage.run(root, {need: made[need] for need in nodes[name].needs})
        print(f"{name}: {made[name].path}", flush=True)
    return made


def load_expert(kind: str, config: PipelineConfig, made: dict[str, Artifact]) -> Expert:
    expert, path = build_expert(kind, getattr(config.experts, kind), config.space.width), made[kind].path / WEIGHTS
    fill(expert, load_weights(path), path)
    return expert.eval()


@torch.inference_mode()
def next_token(expert: Expert, head: LanguageHead, documents: list[Document], window: int, start: int) -> float:
    """Bits per byte of an expert's `forward`."""
    nats = 0.0
    for inputs_BT, targets_BT, real_BT in windows(documents, window, start):
        hidden_BTD = expert(head.embed(inputs_BT), number_documents(inputs_BT, start))
        nats += float((head.nll(hidden_BTD, targets_BT) * real_BT).sum())
    return nats / math.log(2) / sum(document.bytes for document in documents)


def measure(seed: int, wanted: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and say it as ratios minus one."""
    training = {"tokens": wanted.tokens, "order": "same", "lean": 1.0}
    overrides = {"seed": seed, "compute": {"device": "cpu", "threads": 1}, "pretrain": training}
    config = load(wanted.preset, overrides)
    made = make(config, wanted.root)
    head, start, window = load_head(made["embedding"].path), made["tokens"].summary["start_token"], config.space.window
    documents = list(split_documents(TokenSet.open(made["tokens"].path, "test"), wanted.eval_tokens, seed=0))
    diffuser, transformer = (load_expert(kind, config, made) for kind in ("diffuser", "transformer"))
    bits = likelihoods(diffuser, head, documents, window, start, block=8, strata=wanted.strata, seed=seed)  # type: ignore[arg-type]
    bits["transformer"] = next_token(transformer, head, documents, window, start)
    ratios = {
        "one_step_vs_transformer": bits["one_step"] / bits["transformer"] - 1,
        "elbo_1_vs_one_step": bits["elbo_1"] / bits["one_step"] - 1,
        "elbo_vs_factorised": bits["elbo"] / bits["factorised"] - 1,
    }
    trained = {kind: made[kind].summary["training"] for kind in ("diffuser", "transformer")}
    assert trained["diffuser"]["steps"] == trained["transformer"]["steps"]
    about = {"tokens": sum(len(d.tokens) - 1 for d in documents), "steps": trained["diffuser"]["steps"]}
    seconds = {kind: round(figures["seconds"], 1) for kind, figures in trained.items()}
    return {"seed": seed, **about, "seconds": seconds, "bits_per_byte": bits, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--tokens", type=int, default=409_600, help="training budget of each expert (tokens)")
    parser.add_argument("--eval-tokens", type=int, default=20_000, help="most tokens of the test split")
    parser.add_argument("--strata", type=int, default=16, help="noise levels per token in a bound")
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="artifact root")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measure(seed, wanted) for seed in wanted.seeds]
    for run in runs:
        print(json.dumps(run))
    ratios = {name: [run["ratios"][name] for run in runs] for name in runs[0]["ratios"]}
    for name, values in ratios.items():
        print(f"{name}: mean {statistics.mean(values):+.2%}, from {min(values):+.2%} to {max(values):+.2%}")
    if wanted.json:
        print(json.dumps({"ratios": {name: statistics.mean(values) for name, values in ratios.items()}, "runs": runs}))


if __name__ == "__main__":
    main()
