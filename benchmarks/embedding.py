"""What the shared token table is worth to an expert that reads it and speaks through it, frozen, for several seeds.

    python benchmarks/embedding.py --budgets 30000 300000 --seeds 1 2 3 --json

Trains the table with each budget and the transformer expert over it, as the pipeline does, from the starter corpus; and
`own`: the same transformer with the same training, whose table learns with it and is its own. Bits per byte of the test
split. What a table costs comes before the expert, once for all three experts; `own` has no such cost and can share no
head. Artifacts are kept under --root: a second run only evaluates, but for `own`.
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano_think.core.rng import branch
from nano_think.data.tokens import TokenSet, unigram
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.reading import Document, windows
from nano_think.experts import build_expert
from nano_think.heads.language import LanguageHead
from nano_think.models.embedder import Embedder, EmbedderConfig, load_head
from nano_think.nn.documents import number_documents
from nano_think.nn.weights import fill, load_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.embedding import Embedding
from nano_think.stages.pipeline import PipelineConfig, load, plan
from nano_think.stages.pretrain import WEIGHTS
from nano_think.stages.training import Trainer
from nano_think.training.loop import seed_everything
from nano_think.training.objectives.embedding import EmbedderObjective

TEXT, TRAINED = ("ingest", "tokenizer", "tokens"), ("embedding", "transformer")


def configure(wanted: argparse.Namespace, seed: int, budget: int) -> PipelineConfig:
    overrides = {
        "seed": seed, "compute": {"device": "cpu", "threads": wanted.threads},
        "embedding": {"train": {"tokens": budget}}, "pretrain": {"tokens": wanted.tokens, "order": "same", "lean": 1.0},
    }  # fmt: skip
    return load(wanted.preset, overrides)


def make(config: PipelineConfig, root: Path, names: tuple[str, ...]) -> dict[str, Artifact]:
    """These stages, one after the other, each made once."""
    nodes, made = plan(config), {}
    for name in names:
        made[name] = nodes[name].stage.run(root, {need: made[need] for need in nodes[name].needs})
        print(f"{name}: {made[name].path}", flush=True)
    return made


class Shared:
    """The transformer expert over a table with some budget: hidden states of inputs, and their head."""

    def __init__(self, config: PipelineConfig, made: dict[str, Artifact]):
        path = made["transformer"].path / WEIGHTS
        self.expert = build_expert("transformer", config.experts.transformer, config.space.width).eval()
        fill(self.expert, load_weights(path), path)
        self.head = load_head(made["embedding"].path)

    def read(self, inputs_BT: Tensor, start: int) -> Tensor:
        return self.expert(self.head.embed(inputs_BT), number_documents(inputs_BT, start))


class Own:
    """A transformer of the expert's shape whose table learned with it."""

    def __init__(self, config: PipelineConfig, tokens: Artifact):
        expert, about = config.experts.transformer, tokens.summary
        seed_everything(branch(config.seed, "transformer"))
        shape = EmbedderConfig(n_layers=expert.n_layers, n_heads=expert.n_heads, inner=expert.inner)
        bias_V = torch.from_numpy(unigram(tokens.path, "train", about["vocab_size"]))
        self.model = Embedder(shape, config.space.width, bias_V)
        stage = plan(config)["embedding"].stage
        assert isinstance(stage, Embedding)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(stage.config, Path(folder), lambda event: None)
            objective = EmbedderObjective(self.model, about["start_token"])
            trainer.train(objective, tokens, "train", config.pretrain, "transformer")
        self.model.eval()
        self.head = LanguageHead(self.model.head().table.detach(), bias_V)

    def read(self, inputs_BT: Tensor, start: int) -> Tensor:
        return self.model.read(self.head, inputs_BT, start)


@torch.inference_mode()
def bits_per_byte(model: Shared | Own, documents: list[Document], window: int, start: int) -> float:
    nats = 0.0
    for inputs_BT, targets_BT, real_BT in windows(documents, window, start):
        nats += float((model.head.nll(model.read(inputs_BT, start), targets_BT) * real_BT).sum())
    return nats / math.log(2) / sum(document.bytes for document in documents)


def measure(seed: int, wanted: argparse.Namespace) -> dict[str, Any]:
    """Bits per byte by budget of the table, and with a table of its own."""
    configs = {budget: configure(wanted, seed, budget) for budget in wanted.budgets}
    config = next(iter(configs.values()))
    made = make(config, wanted.root, TEXT)
    tokens, window = made["tokens"], config.space.window
    documents = list(split_documents(TokenSet.open(tokens.path, "test"), wanted.eval_tokens, seed=0))
    start, found = tokens.summary["start_token"], {}
    for budget, one in configs.items():
        shared = Shared(one, make(one, wanted.root, TEXT + TRAINED))
        found[str(budget)] = bits_per_byte(shared, documents, window, start)
    found["own"] = bits_per_byte(Own(config, tokens), documents, window, start)
    print(json.dumps({"seed": seed, "bits_per_byte": found}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[30_000, 300_000], help="of the table (tokens)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--tokens", type=int, default=768_000, help="training budget of the expert (tokens)")
    parser.add_argument("--eval-tokens", type=int, default=100_000, help="most tokens of the test split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="artifact root")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    runs = [measure(seed, wanted) for seed in wanted.seeds]
    base = str(wanted.budgets[-1])
    for name in runs[0]:
        change = [run[name] / run[base] - 1 for run in runs]
        mean = statistics.mean(run[name] for run in runs)
        print(f"table {name}: {mean:.3f} bits per byte, {statistics.mean(change):+.2%} against {base}"
              f" (from {min(change):+.2%} to {max(change):+.2%})")  # fmt: skip
    if wanted.json:
        print(json.dumps({"bits_per_byte": runs}))


if __name__ == "__main__":
    main()
