"""The dense control against a Llama of `transformers` of the same size, by the same loop on the same tokens.

    python benchmarks/experiments/llama.py --preset micro --seeds 1 2 3 --out docs/results-llama.md

Both are trained as the dense control of the preset is: its shape, its number of tokens (or --tokens), its windows,
optimiser and schedule. Llama's inner width is the one that makes its parameters those of the control. `frozen`: both
read and speak through the run's frozen token table, as the control does. `own`: each through a table of its own that
learns with it, which is how a Llama comes. Both are calibrated on the validation split by the same two numbers; bits
per byte are of test documents. A training that is finished is not run again.
"""

import argparse
import json
import math
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fits import Voice, by_document, change, fit, nats
from runs import make
from speakers import Speaker
from tables import figure, markdown, short, told
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from nano_think.core.config import read_yaml, to_dict
from nano_think.core.device import without_numbers
from nano_think.core.files import write_json
from nano_think.core.rng import branch
from nano_think.data.tokens import TokenSet, unigram
from nano_think.evaluation.documents import split_documents
from nano_think.experts import Expert, ExpertConfig, build_expert, count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.dense import KIND, match_parameters, match_tokens
from nano_think.models.embedder import load_head
from nano_think.nn.documents import causal_mask
from nano_think.stages.artifact import Artifact
from nano_think.stages.dense import SPLITS, Dense, DenseJob, mixture_cost
from nano_think.stages.pipeline import load, plan
from nano_think.stages.training import Trainer
from nano_think.training.loop import seed_everything
from nano_think.training.objectives.expert import ExpertObjective

STAGES = ("ingest", "tokenizer", "tokens", "embedding")
MODELS, TABLES = ("dense", "llama"), ("frozen", "own")


class Llama(Expert):
    """Hugging Face's Llama without its table: embeddings in, hidden states out, documents apart."""

    Config = ExpertConfig

    def __init__(self, shape: TransformerConfig, width: int, inner: int):
        super().__init__()
        config = LlamaConfig(
            vocab_size=1, hidden_size=width, intermediate_size=inner, num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads, use_cache=False, rms_norm_eps=torch.finfo(torch.float32).eps,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.model = LlamaModel(config)
        del self.model.embed_tokens

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        place_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        mask_B1TT = causal_mask(documents_BT)
        return self.model(inputs_embeds=x_BTD, attention_mask=mask_B1TT, position_ids=place_1T).last_hidden_state


def build_llama(shape: TransformerConfig, width: int) -> Llama:
    """The Llama whose inner width gives it the parameters of the transformer expert of that shape."""
    with without_numbers():
        wanted = count_parameters(build_expert(KIND, shape, width))
        one, two = (count_parameters(Llama(shape, width, inner)) for inner in (1, 2))
    return Llama(shape, width, max(1, 1 + round((wanted - one) / (two - one))))


class Comparison:
    """The trainings of one seed, each made once, and what is measured of them."""

    def __init__(self, wanted: argparse.Namespace, seed: int):
        self.wanted, self.seed = wanted, seed
        compute = {"device": "cpu", "threads": wanted.threads}
        settings = read_yaml(wanted.settings) if wanted.settings else {}
        self.config = load(wanted.preset, settings, {"seed": seed, "controls": "dense", "compute": compute})
        nodes, self.made = plan(self.config), dict[str, Artifact]()
        for name in STAGES:
            self.made[name] = make(nodes[name], wanted.root, self.made)
        stage = nodes["dense"].stage
        assert isinstance(stage, Dense)
        self.job: DenseJob = stage.config
        self.head, self.tokens = load_head(self.made["embedding"].path), self.made["tokens"]
        self.start = self.tokens.summary["start_token"]

    def model(self, name: str, table: str, shape: TransformerConfig) -> Speaker:
        """A model, untrained; the table that stays is normalised already, which once more changes nothing."""
        seed_everything(branch(self.seed, "dense"))
        width = self.config.space.width
        expert = build_llama(shape, width) if name == "llama" else build_expert(KIND, shape, width)
        bias_V = self.head.bias
        if table == "own":
            bias_V = torch.from_numpy(unigram(self.tokens.path, "train", len(self.head.bias)))
        return Speaker(expert, bias_V, width, self.start, self.head.table if table == "frozen" else None)

    def measured(self, name: str, table: str) -> dict[str, Any]:
        """Nats by test document, parameters, tokens and seconds of one training; trains it if that is not done."""
        place = self.wanted.root / "llama" / f"{name}-{table}-{self._settings()}-{self.seed}.json"
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, self._train(name, table))
        return json.loads(place.read_text())

    def _settings(self) -> str:
        """A digest of all that a result depends on but its name and seed."""
        wanted = self.wanted
        said = {"job": to_dict(self.job), "table": self.made["embedding"].digest, "text": self.tokens.digest}
        said |= {"tokens": wanted.tokens, "fit": wanted.fit_tokens, "test": wanted.test_tokens}
        return sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def _train(self, name: str, table: str) -> dict[str, Any]:
        print(f"seed {self.seed}, {name}, {table} table: trains", flush=True)
        width, window = self.config.space.width, self.config.space.window
        with tempfile.TemporaryDirectory() as work:
            trainer = Trainer(self.job, Path(work), lambda event: None)
            cost = mixture_cost(self.job, self.tokens, self.head, trainer)
            shape = match_parameters(cost["parameters"], width, self.job.base)
            speaker, train = self.model(name, table, shape), self.job.train
            budget = self.wanted.tokens or self._budget(trainer, cost, shape)
            summary = trainer.train(speaker, self.tokens, SPLITS, replace(train, tokens=budget), "dense")
        speaker.eval()
        fitted = Voice(speaker.head(), self._states(speaker, "validation")[0])
        share_P = fit([fitted], self._states(speaker, "validation")[1])
        states_ND, target_N, documents = self._states(speaker, "test")
        lengths = torch.tensor([len(document.tokens) - 1 for document in documents])
        document_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        tested = nats([Voice(speaker.head(), states_ND)], share_P, target_N)
        return {
            "nats": by_document(tested, document_N, documents).tolist(),
            "bytes": sum(document.bytes for document in documents), "parameters": count_parameters(speaker.expert),
            "tokens": summary["training"]["tokens"], "flops": summary["flops"], "window": window,
            "seconds": summary["training"]["seconds"],
        }  # fmt: skip

    def _budget(self, trainer: Trainer, cost: dict[str, Any], shape: TransformerConfig) -> int:
        """The control's tokens, as its own stage counts them."""
        objective = ExpertObjective(build_expert(KIND, shape, self.config.space.width), self.head, self.start)
        per_token = trainer.flops_per_token(objective, self.tokens, SPLITS, self.job.train)
        return match_tokens(cost["flops"], per_token, self.job.train.batch * self.config.space.window)

    @torch.no_grad()
    def _states(self, speaker: Speaker, split: str) -> tuple[Tensor, Tensor, list[Any]]:
        most = self.wanted.fit_tokens if split == "validation" else self.wanted.test_tokens
        documents = list(split_documents(TokenSet.open(self.tokens.path, split), most, seed=0))
        read = [speaker.states([document], self.config.space.window) for document in documents]
        return torch.cat([one for one, _ in read]), torch.cat([one for _, one in read]), documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--settings", type=Path, help="a YAML file over the preset, as in runs.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=0, help="training budget; 0 is the dense control's own")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--fit-tokens", type=int, default=16_384, help="of the validation split")
    parser.add_argument("--test-tokens", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=Path("artifacts"), help="artifact root")
    parser.add_argument("--out", type=Path, help="where the table goes, as Markdown")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    wanted = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        table: {name: [] for name in MODELS} for table in wanted.tables
    }
    for seed in wanted.seeds:
        comparison = Comparison(wanted, seed)
        for table in wanted.tables:
            for name in MODELS:
                found[table][name].append(comparison.measured(name, table))
    rows, told_all = [], {}
    for table, models in found.items():
        sums = {name: [np.array(run["nats"]) for run in runs] for name, runs in models.items()}
        against = change(sums["dense"], sums["llama"])
        told_all[table] = list(against)
        for name, runs in models.items():
            bits = [one.sum() / math.log(2) / run["bytes"] for one, run in zip(sums[name], runs, strict=True)]
            row = [f"{name}, {table} table", figure(bits), told(against) if name == "dense" else "–"]
            rows.append([*row, short(runs[0]["parameters"]), short(runs[0]["tokens"])])
    lines = markdown(("model", "bits per byte", "dense against Llama", "parameters", "tokens"), rows)
    print("\n".join(lines))
    if wanted.out:
        wanted.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps({"dense_against_llama": told_all, "seeds": wanted.seeds, "preset": wanted.preset}))


if __name__ == "__main__":
    main()
