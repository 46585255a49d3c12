"""E1: little text and many passes. From which epoch is a mixture of small experts below one dense model of its size?

    python benchmarks/experiments/e1.py --root artifacts/e1 --seeds 1 2 3 --out docs/results-e1.md

Every model has a token table of its own, that learns with it, but for the diffuser, which needs a frozen one: the first
transformer's of the same seed. Every kind of model, the dense one too, is trained with each setting of --grid (weight
decay:dropout) at the first seed, and with the one whose calibrated validation loss was the lowest at any epoch at the
others. The second transformer and the second dense model of a seed (T', dense') are the first of the next seed, so that
each serves twice: seeds are not quite independent. Rates are level and figures are of the weights' mean over about an
epoch, so that every epoch of the curve is an end. The dense model has the parameters of T+T'+S; it is tried at each
width of --dense-widths with as many layers as that takes, and may train --dense-longer times as long as the others.

A mixture's logits are weighted sums of its members' (what a weighted sum of hiddens is where they share a head), with
one weight for each member and one for the unigram bias, fitted on validation text; of a single model that is its
calibration. Bits per byte are of test documents. In the first table every model is taken at the epoch of its lowest
calibrated validation loss; in the second all at the same epoch, but the table that a diffuser reads, which is always
the transformer's best one. FLOPs are those of training up to there, the state-space expert's scan included; a diffuser
is charged for the transformer that made its table, up to that one's best epoch, where the mixture has not trained it as
far itself.

"At equal FLOPs" a mixture stands beside a dense model that had as many as the mixture took and, seed by seed, stopped
at the epoch of its lowest calibrated validation loss within them; only where its loss still falls there, it is taken
between the two epochs around. A dense model that was trained past its optimum is nobody's yardstick.

A training that is finished is not run again: seeds can be trained in processes of their own, once the first is there,
and one that was killed begins anew. The table is written for whatever seeds are given.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from fits import Look, Voice, by_document, change, fit, nats, stopped_early
from little import Text, little_text
from speakers import Point, build, load_speaker, run
from tables import curve_table, grid_table, picture, systems_table

from nano_think.core.device import ComputeConfig, pick_device, pick_dtype, set_up
from nano_think.experts import count_parameters
from nano_think.experts.diffuser import DiffuserConfig
from nano_think.experts.state_space import StateSpaceConfig
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.dense import match_parameters

T, T2, S, D, DENSE, DENSE2 = "transformer", "transformer_2", "state_space", "diffuser", "dense", "dense_2"
SYSTEMS = {
    "T": (T,), "S": (S,), "D": (D,), "dense": (DENSE,), "T+T'": (T, T2), "T+S": (T, S), "T+S+D": (T, S, D),
    "T+T'+S": (T, T2, S), "T+T'+S+D": (T, T2, S, D), "dense+dense'": (DENSE, DENSE2),
}  # fmt: skip
SECOND = {T2: T, DENSE2: DENSE}
# What the diffuser adds, and what a second transformer in its place does.
PAIRS = (("T+S+D", "T+S"), ("T+T'+S", "T+S"), ("T+T'+S+D", "T+T'+S"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("artifacts/e1"), help="where trainings are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--first-seed", type=int, default=1, help="the seed at which settings are chosen")
    parser.add_argument("--bytes", type=int, default=300_000, help="unique text (bytes)")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--inner", type=int, default=256)
    parser.add_argument("--dense-widths", type=int, nargs="+", default=[96, 144])
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="windows per step")
    parser.add_argument("--rate", type=float, default=0.01, help="Muon's rate, for every model")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 4, 6, 8, 12, 16, 20, 24])
    parser.add_argument("--dense-longer", type=float, default=1.5)
    parser.add_argument("--grid", nargs="+", default=["0.1:0.1", "0.5:0.1", "0.5:0.2", "1:0.2"])
    parser.add_argument("--fit-tokens", type=int, default=20_000, help="of the validation split")
    parser.add_argument("--test-tokens", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without", nargs="*", default=[], choices=[D], help="models to leave out")
    parser.add_argument("--out", type=Path, help="where the tables go, as Markdown")
    parser.add_argument("--picture", type=Path, help="where the curves go, as SVG")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser.parse_args()


class Trained(NamedTuple):
    """A finished training and what is known of it."""

    point: Point
    about: dict[str, Any]

    @property
    def best(self) -> int:
        """The epoch at which its calibrated validation loss was the lowest."""
        looks = self.about["looks"]
        return int(min(looks, key=lambda epoch: looks[epoch]["calibrated"]))

    @property
    def loss(self) -> float:
        return self.loss_at(self.best)

    def loss_at(self, epoch: int) -> float:
        """Its calibrated validation loss (nats per token)."""
        return self.about["looks"][str(epoch)]["calibrated"]


class Experiment:
    """The trainings of E1, each made once, and what is measured of them."""

    def __init__(self, wanted: argparse.Namespace):
        self.wanted = wanted
        cpu = torch.device("cpu")
        set_up(ComputeConfig(device="cpu", threads=wanted.threads), cpu)
        half = pick_dtype("auto", pick_device("cpu")) == "bfloat16"
        self.accelerator = Accelerator(cpu=True, mixed_precision="bf16" if half else "no")
        self.text: Text = little_text(
            wanted.root, size=wanted.bytes, vocabulary=wanted.vocabulary, most=32 * wanted.window,
            fit=wanted.fit_tokens, test=wanted.test_tokens,
        )  # fmt: skip
        last, longer = max(wanted.epochs), wanted.dense_longer
        self.longer = sorted({*wanted.epochs, math.ceil((1 + longer) / 2 * last), math.ceil(longer * last)})
        self.voices: dict[tuple[Path, int, str], Voice] = {}
        self.targets: dict[str, torch.Tensor] = {}
        self.known: dict[tuple[str, int], Trained] = {}
        self.compared: dict[str, list[Trained]] = {}

    def shapes(self, name: str) -> list[Point]:
        """The shapes that a model is tried in, at the first setting and seed."""
        wanted, heads = self.wanted, max(1, self.wanted.width // 32)
        base = TransformerConfig(n_layers=wanted.layers, n_heads=heads, inner=wanted.inner)
        plain = Point(
            name=name, expert=base, width=wanted.width, seed=wanted.first_seed, weight_decay=0.0,
            epochs=max(self.longer if name.startswith(DENSE) else wanted.epochs), window=wanted.window,
            batch=wanted.batch, rate=wanted.rate,
        )  # fmt: skip
        if name.startswith(DENSE):
            size = sum(self._size(replace(plain, name=one)) for one in (T, T2, S))
            shapes = {width: self._dense(base, size, width) for width in wanted.dense_widths}
            return [replace(plain, name=T, width=width, expert=shape) for width, shape in shapes.items()]
        return [replace(plain, expert=self._expert(name, base))]

    def _expert(self, name: str, base: TransformerConfig) -> Any:
        if name == S:
            return StateSpaceConfig(form="s6", n_layers=base.n_layers, inner=round(base.inner * 5 / 6 / 16) * 16)
        if name == D:
            return DiffuserConfig(n_layers=base.n_layers, n_heads=base.n_heads, inner=base.inner // 2)
        return base

    def _size(self, point: Point) -> int:
        return count_parameters(build(replace(point, expert=self._expert(point.name, point.expert)), self.text))

    def _dense(self, base: TransformerConfig, size: int, width: int) -> TransformerConfig:
        base = replace(base, n_heads=max(1, width // 32))
        return match_parameters(size - self.wanted.vocabulary * width, width, base)

    def train(self, point: Point, name: str) -> Trained:
        """A training, which the diffuser's begins with the table of the first transformer of its seed."""
        epochs = self.longer if name.startswith(DENSE) else self.wanted.epochs
        table_VD, folder = None, "dense" if name.startswith(DENSE) else "members"
        if name == D:
            first = self.chosen(T, point.seed)
            table_VD = load_speaker(first.point, self.text, self.wanted.root / "members", first.best).table.detach()
        return Trained(point, run(point, self.text, self.wanted.root / folder, epochs, self.accelerator, table_VD))

    def chosen(self, name: str, seed: int) -> Trained:
        """The training of a model at a seed with the settings that are best at the first seed. A second one of a kind
        is the first of the next seed.
        """
        if name in SECOND:
            seeds = self.wanted.seeds
            return self.chosen(SECOND[name], seeds[(seeds.index(seed) + 1) % len(seeds)])
        if (name, seed) not in self.known:
            self.known[name, seed] = self._choose(name, seed)
        return self.known[name, seed]

    def _choose(self, name: str, seed: int) -> Trained:
        best = min(self.tried(name), key=lambda one: one.loss)
        return self.train(replace(best.point, seed=seed), name)

    def tried(self, name: str) -> list[Trained]:
        """The trainings of a model at the first seed, with each setting of the grid in each shape."""
        if name not in self.compared:
            self.compared[name] = [
                self.train(replace(point, weight_decay=decay, expert=replace(point.expert, dropout=dropout)), name)
                for point in self.shapes(name) for decay, dropout in self.grid()
            ]  # fmt: skip
        return self.compared[name]

    def grid(self) -> list[tuple[float, float]]:
        """(weight decay, dropout) of each setting."""
        parted = (one.partition(":") for one in self.wanted.grid)
        return [(float(decay), float(dropout)) for decay, _, dropout in parted]

    def voice(self, name: str, one: Trained, epoch: int, split: str) -> Voice:
        """What a model says of the documents of a split, each read on its own."""
        root = self.wanted.root / ("dense" if name.startswith(DENSE) else "members")
        key = (root / one.point.folder, epoch, split)
        if key not in self.voices:
            speaker, documents = load_speaker(one.point, self.text, root, epoch), getattr(self.text, split)
            read = [speaker.states([document], one.point.window) for document in documents]
            self.targets[split] = torch.cat([target_N for _, target_N in read])
            self.voices[key] = Voice(speaker.head(), torch.cat([states_ND for states_ND, _ in read]))
        return self.voices[key]

    def measure(self, members: Sequence[str], seed: int, epoch: int | None) -> np.ndarray:
        """Nats of each test document under a mixture, each member at the same epoch or, without one, at its best."""
        trained = {name: self.chosen(name, seed) for name in members}
        return self._test({name: (one, epoch or one.best) for name, one in trained.items()})

    @torch.no_grad()
    def _test(self, chosen: dict[str, tuple[Trained, int]]) -> np.ndarray:
        fitted, tested = (
            [self.voice(name, one, at, split) for name, (one, at) in chosen.items()] for split in ("validation", "test")
        )
        share_P = fit(fitted, self.targets["validation"])
        lengths = torch.tensor([len(document.tokens) - 1 for document in self.text.test])
        document_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return by_document(nats(tested, share_P, self.targets["test"]), document_N, self.text.test)

    def cost(self, members: Sequence[str], epoch: int | None) -> dict[str, float]:
        """Parameters, training FLOPs and epochs of a mixture, the mean over seeds."""
        rows = [[self.chosen(name, seed) for name in members] for seed in self.wanted.seeds]
        epochs = [[epoch or one.best for one in row] for row in rows]
        flops = [self.flops(members, seed, epoch) for seed in self.wanted.seeds]
        parameters = sum(one.about["parameters"] for one in rows[0])
        return {"parameters": parameters, "flops": float(np.mean(flops)), "epochs": float(np.mean(epochs))}

    def flops(self, members: Sequence[str], seed: int, epoch: int | None) -> float:
        """The training FLOPs of a mixture."""
        row = [self.chosen(name, seed) for name in members]
        own = sum(one.about["flops_per_epoch"] * (epoch or one.best) for one in row)
        return own + self._table(members, seed, epoch)

    def _table(self, members: Sequence[str], seed: int, epoch: int | None) -> float:
        """The FLOPs of the table that a diffuser reads, as far as the mixture's own transformer does not have them."""
        if D not in members:
            return 0.0
        first = self.chosen(T, seed)
        trained = (epoch or first.best) if T in members else 0
        return first.about["flops_per_epoch"] * max(0, first.best - trained)


def main() -> None:
    wanted = arguments()
    if len(set(wanted.seeds)) < max(2, len(wanted.seeds)):
        raise SystemExit("benchmark: --seeds: wanted two or more, all different: a second one of a kind is another's")
    found = Experiment(wanted)
    systems = {name: members for name, members in SYSTEMS.items() if not set(members) & set(wanted.without)}
    tested = {name: {None: seeds_of(found, members, None)} for name, members in systems.items()}
    for epoch in found.longer:
        for name, members in systems.items():
            if epoch in wanted.epochs or name == "dense":
                tested[name][epoch] = seeds_of(found, members, epoch)
        print(f"epoch {epoch}: measured", file=sys.stderr, flush=True)
    table = tabulate(found, systems, tested)
    lines = [*systems_table(table), "", *grid_table(table), "", *curve_table(table)]
    print("\n".join(lines))
    if wanted.out:
        wanted.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if wanted.picture:
        picture(table, wanted.picture)
    if wanted.json:
        print(json.dumps(table))


def seeds_of(found: Experiment, members: Sequence[str], epoch: int | None) -> list[np.ndarray]:
    return [found.measure(members, seed, epoch) for seed in found.wanted.seeds]


def tabulate(
    found: Experiment, systems: dict[str, tuple[str, ...]], tested: dict[str, dict[int | None, list[np.ndarray]]]
) -> dict[str, Any]:
    """Everything as plain JSON: each system at its members' best epochs ("best") and by epoch."""
    bits = math.log(2) * sum(document.bytes for document in found.text.test)
    looks = dense_looks(found, tested["dense"])

    def row(name: str, epoch: int | None) -> dict[str, Any]:
        ours, about = tested[name][epoch], found.cost(systems[name], epoch)
        budgets = [found.flops(systems[name], seed, epoch) for seed in found.wanted.seeds]
        dense = [stopped_early(*one) for one in zip(looks, budgets, strict=True)]
        stopped = [one for one in dense if one is not None]
        known = len(stopped) == len(dense)
        return about | {
            "bits_per_byte": [float(one.sum() / bits) for one in ours],
            "dense_stopped_early": [float(one.sum() / bits) for one in stopped] if known else None,
            "against_dense": list(change(ours, tested["dense"][epoch])) if name != "dense" else None,
            "at_equal_flops": list(change(ours, stopped)) if known and name != "dense" else None,
        }

    kinds = {member for members in systems.values() for member in members} - set(SECOND)
    return {
        "text": {"bytes": found.text.bytes, "tokens": len(found.text.tokens), "test_documents": len(found.text.test)},
        "seeds": found.wanted.seeds,
        "settings": {name: setting_of(found.chosen(name, found.wanted.first_seed)) for name in sorted(kinds)},
        "grid": {name: grid_of(found, name) for name in sorted(kinds)},
        "pairs": [
            [one, other, list(change(tested[one][None], tested[other][None]))]
            for one, other in PAIRS if one in tested and other in tested
        ],
        "best": {name: row(name, None) for name in systems},
        "epochs": {
            str(epoch): {name: row(name, epoch) for name in systems if epoch in tested[name]} for epoch in found.longer
        },
    }  # fmt: skip


def dense_looks(found: Experiment, tested: dict[int | None, list[np.ndarray]]) -> list[list[Look]]:
    """The dense model at every epoch that was looked at, for each seed."""
    chosen = {seed: found.chosen(DENSE, seed) for seed in found.wanted.seeds}
    return [
        [Look(found.flops([DENSE], seed, epoch), one.loss_at(epoch), tested[epoch][place]) for epoch in found.longer]
        for place, (seed, one) in enumerate(chosen.items())
    ]


def setting_of(one: Trained) -> dict[str, Any]:
    """What it was trained with."""
    point = one.point
    shape = {"width": point.width, "layers": point.expert.n_layers}
    return {"weight_decay": point.weight_decay, "dropout": point.expert.dropout, **shape}


def grid_of(found: Experiment, name: str) -> list[dict[str, Any]]:
    """Every setting that a model was tried with, its lowest calibrated validation loss and the epoch of that."""
    chosen = found.chosen(name, found.wanted.first_seed).point
    return [
        setting_of(one)
        | {"validation": one.loss, "epoch": one.best, "epochs": one.point.epochs, "chosen": one.point == chosen}
        for one in found.tried(name)
    ]


if __name__ == "__main__":
    main()
