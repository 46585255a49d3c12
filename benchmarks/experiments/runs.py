"""Ordinary runs that differ in a few settings, each with several seeds, side by side: E2, E3 and E4 are made of it.

Trainings take their turns in this process: to start one of its own takes ten seconds, as long as the smallest train.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fits import change
from tables import dots, figure, markdown, short, told

from nano_think.core.config import read_yaml, to_dict
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.embedder import load_head
from nano_think.stages.artifact import Artifact
from nano_think.stages.dense import DenseJob, mixture_cost
from nano_think.stages.evaluate import DOCUMENTS
from nano_think.stages.mixture import RouterJob
from nano_think.stages.pipeline import Node, PipelineConfig, load, plan
from nano_think.stages.pretrain import PretrainJob
from nano_think.stages.stage import WORK, Context, Inputs
from nano_think.stages.training import Trainer, TrainingStage

# Nothing is asked of the memories here.
LITTLE = {"memory": {"max_entries": 512, "fit_tokens": 2000}}
LAST = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to: calibrated nats by document and scorer, its members, the bytes of the documents, and the
    FLOPs of the trainings that the mixture needs.
    """

    nats: Mapping[str, np.ndarray]
    members: tuple[str, ...]
    bytes: int
    flops: float

    @property
    def best_expert(self) -> str:
        return min(self.members, key=lambda name: self.nats[name].sum())

    def bits_per_byte(self, scorer: str) -> float:
        return float(self.nats[scorer].sum() / math.log(2) / self.bytes)


def arguments(description: str | None, root: str) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--settings", type=Path, help="a YAML file over the preset; small.yaml for runs of a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--root", type=Path, default=Path(root), help="artifact root of all runs")
    parser.add_argument("--tokens", type=int, default=0, help="training budget of each expert; 0 is the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dense", action="store_true", help="train the dense control of every run too")
    parser.add_argument("--out", type=Path, help="where the table goes, as Markdown")
    parser.add_argument("--picture", type=Path, help="where the picture goes, as SVG")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser


def configure(wanted: argparse.Namespace, seed: int, overrides: Mapping[str, Any]) -> PipelineConfig:
    common: dict[str, Any] = {
        "seed": seed, "controls": "dense" if wanted.dense else "none",
        "compute": {"device": "cpu", "threads": wanted.threads},
    }  # fmt: skip
    budget = {"pretrain": {"tokens": wanted.tokens}} if wanted.tokens else {}
    settings = read_yaml(wanted.settings) if wanted.settings else {}
    return load(wanted.preset, LITTLE, settings, common, budget, overrides)


def outcome(config: PipelineConfig, root: Path) -> Outcome:
    """Of a run up to its evaluation."""
    made = artifacts(config, root, LAST)
    frame = pd.read_parquet(made[LAST].path / DOCUMENTS)
    nats = {name.removeprefix(CALIBRATED): frame[name].to_numpy(float) for name in frame if name.startswith(CALIBRATED)}
    trained = ("embedding", *config.members, "router")
    flops = sum(made[name].summary["flops"] for name in trained)
    return Outcome(nats=nats, members=config.members, bytes=int(frame["bytes"].sum()), flops=flops)


def artifacts(config: PipelineConfig, root: Path, last: str) -> dict[str, Artifact]:
    """Of a run up to a stage; stages that are finished are not made again, and one that was cut off goes on."""
    made = dict[str, Artifact]()
    for name, node in plan(config).items():
        made[name] = make(node, root, made)
        print(f"{name}: {made[name].path}", flush=True)
        if name == last:
            break
    return made


def training_flops(config: PipelineConfig, root: Path) -> float:
    """What the trainings of the experts and the router will take, counted as the dense control's budget is. What they
    stand on, up to the token table, is made.
    """
    made, nodes = artifacts(config, root, "embedding"), plan(config)
    jobs = [nodes[name].stage.config for name in (*config.members, "router")]
    experts, router = [job for job in jobs if isinstance(job, PretrainJob)], jobs[-1]
    assert isinstance(router, RouterJob)
    job = DenseJob(space=config.space, seed=config.seed, compute=router.compute, experts=tuple(experts), router=router,
                   base=TransformerConfig())  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        trainer = Trainer(job, Path(work), lambda event: None)
        return mixture_cost(job, made["tokens"], load_head(made["embedding"].path), trainer)["flops"]


def make(node: Node, root: Path, made: Mapping[str, Artifact]) -> Artifact:
    """The artifact of a node whose inputs are made."""
    if isinstance(node.stage, TrainingStage):
        node.stage.build = partial(train_here, node.stage)  # type: ignore[method-assign]
    return node.stage.run(root, {need: made[need] for need in node.needs})


def train_here(stage: TrainingStage, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
    """What the process of a training does, with the same bits."""
    (out / WORK).mkdir(exist_ok=True)
    trainer = Trainer(stage.config, out / WORK, lambda event: None)
    summary = stage.fit(inputs, out, trainer)
    trainer.write_curves(out)
    return summary


def compare(wanted: argparse.Namespace, variants: Mapping[str, Mapping[str, Any]], base: str) -> dict[str, Any]:
    """Run all variants at all seeds; plain JSON by variant. Differences are of calibrated bits, paired over documents;
    those against `base` are between mixtures.
    """
    found: dict[str, list[Outcome]] = {name: [] for name in variants}
    for seed in wanted.seeds:
        for name, overrides in variants.items():
            print(f"seed {seed}, {name}", flush=True)
            found[name].append(outcome(configure(wanted, seed, overrides), wanted.root))

    def row(name: str) -> dict[str, Any]:
        runs = found[name]
        ours = [run.nats["mixture"] for run in runs]
        dense = [run.nats["dense"] for run in runs] if wanted.dense else None
        return {
            "bits_per_byte": {
                scorer: [run.bits_per_byte(scorer) for run in runs] for scorer in ("mixture", "static", "uniform")
            } | {"best expert": [run.bits_per_byte(run.best_expert) for run in runs]}
              | ({"dense": [run.bits_per_byte("dense") for run in runs]} if dense else {}),
            "flops": float(np.mean([run.flops for run in runs])),
            "against": {
                "best expert": list(change(ours, [run.nats[run.best_expert] for run in runs])),
                "static": list(change(ours, [run.nats["static"] for run in runs])),
                "dense": list(change(ours, dense)) if dense else None,
                base: list(change(ours, [run.nats["mixture"] for run in found[base]])) if name != base else None,
            },
        }  # fmt: skip

    return {
        "seeds": wanted.seeds,
        "base": base,
        "preset": wanted.preset,
        "rows": {name: row(name) for name in variants},
    }


def show(wanted: argparse.Namespace, table: Mapping[str, Any]) -> None:
    """Print the table, and write and draw it where that is asked for."""
    rows = table["rows"]
    scorers, others = (list(next(iter(rows.values()))[part]) for part in ("bits_per_byte", "against"))
    head = ("variant", *scorers, *(f"mixture against {other}" for other in others), "training FLOPs")
    lines = markdown(
        head,
        [
            [name, *(figure(row["bits_per_byte"][scorer]) for scorer in scorers),
             *(told(row["against"][other]) for other in others), short(row["flops"])]
            for name, row in rows.items()
        ],
    )  # fmt: skip
    print("\n".join(lines))
    if wanted.out:
        wanted.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if wanted.picture:
        dots(rows, wanted.picture)
    if wanted.json:
        print(json.dumps(table))


def budget_of(wanted: argparse.Namespace) -> int:
    """The training budget of each expert (tokens)."""
    return int(to_dict(configure(wanted, 1, {}))["pretrain"]["tokens"])
