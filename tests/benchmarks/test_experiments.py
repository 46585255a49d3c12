"""The experiments' own parts: what is fitted, what is kept, what is compared."""

import dataclasses
import importlib
import json
import math
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nano_think.core.device import ComputeConfig
from nano_think.evaluation.calibration import fit_calibration
from nano_think.experts.state_space import StateSpaceConfig
from nano_think.experts.transformer import TransformerConfig
from nano_think.nn.weights import load_weights
from nano_think.stages.pipeline import Node, PipelineConfig
from nano_think.stages.space import Job, SpaceConfig
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from tests.tiny import VOCABULARY, WIDTH, tiny_head

FOLDER = Path(__file__).parents[2] / "benchmarks" / "experiments"
NAMES = ("e1", "e2", "e3", "e4", "fits", "little", "runs", "seeds", "speakers", "tables")


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch):
    """The folder's modules, which import each other by their plain names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def draw(rows: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states, and targets that they say something of."""
    generator = torch.Generator().manual_seed(seed)
    target_N = torch.randint(VOCABULARY, (rows,), generator=generator)
    return tiny_head().table[target_N] + 2 * torch.randn(rows, WIDTH, generator=generator), target_N


def test_of_one_member_the_fit_is_the_calibration():
    import fits

    hidden_ND, target_N = draw()
    voice, known = fits.Voice(tiny_head(), hidden_ND), fit_calibration(tiny_head(), hidden_ND, target_N)
    share_P = fits.fit([voice], target_N)
    assert share_P.tolist() == pytest.approx([known.scale, known.bias], rel=1e-3, abs=1e-3)
    wanted_N = known.nll(tiny_head(), hidden_ND[None], target_N[None])[0]
    torch.testing.assert_close(fits.nats([voice], share_P, target_N), wanted_N, atol=1e-3, rtol=1e-3)


def test_a_fit_is_where_the_loss_is_lowest(monkeypatch: pytest.MonkeyPatch):
    """Also in blocks, and of members of different widths and tables."""
    import fits

    monkeypatch.setattr(fits, "ROWS", 16)
    (first_ND, target_N), (second_ND, _) = draw(), draw(seed=1)
    other = tiny_head(seed=3)
    wide = type(other)(torch.cat([other.table, other.table], dim=1), other.bias)
    voices = [fits.Voice(tiny_head(), first_ND), fits.Voice(wide, torch.cat([second_ND, second_ND], dim=1))]
    share_P = fits.fit(voices, target_N)
    least = float(fits.nats(voices, share_P, target_N).mean())
    for place in range(len(share_P)):
        for step in (-0.05, 0.05):
            moved_P = share_P.clone()
            moved_P[place] += step
            assert float(fits.nats(voices, moved_P, target_N).mean()) > least


def test_changes_are_paired_and_over_seeds():
    import fits

    dice = np.random.default_rng(0)
    theirs = [dice.uniform(50, 100, 40) for _ in range(2)]
    found = fits.change([0.9 * theirs[0], 0.8 * theirs[1]], theirs)
    assert found == pytest.approx((-0.15, -0.15, -0.15, -0.2, -0.1))
    assert str(found) == "-15.00% (-15.00% to -15.00%; seeds -20.00% to -10.00%)"


def test_what_is_kept_is_the_mean_of_about_an_epoch(tmp_path: Path):
    """At first of all steps; later steps count for more."""
    import speakers

    model = nn.Linear(1, 1, bias=False)
    average = speakers.Average(model, per_epoch=2, epochs=[1, 2], folder=tmp_path)
    for step, value in enumerate((1.0, 3.0, 5.0, 9.0), start=1):
        nn.init.constant_(model.weight, value)
        average({"event": "step", "step": step})
    kept = [float(load_weights(tmp_path / f"{epoch}.safetensors")["weight"]) for epoch in (1, 2)]
    assert kept == [2.0, 6.25]


def test_the_sentence_says_since_when_and_what_dense_needs():
    import tables

    def row(bits: float, against: float, flops: float, stopped: float = 9.0) -> dict:
        change, about = [against, against, against + 0.01, 0, 0], {"bits_per_byte": [bits], "flops": flops}
        return about | {"dense_stopped_early": [stopped], "against_dense": change, "at_equal_flops": None}

    epochs = {
        "1": {"X": row(2.2, 0.02, 1e6), "dense": row(2.1, 0, 1e6, 2.1)},
        "2": {"X": row(1.9, -0.05, 2e6), "dense": row(2.0, 0, 2e6, 2.0)},
        "3": {"dense": row(2.3, 0, 3e6, 1.9)},
    }
    table = {"best": {"X": row(1.9, -0.05, 2e6)}, "epochs": epochs}
    told = tables.catches_up(table, "X")
    since, needs = told.removesuffix(".").split(", and ")
    beside = "interval over documents, at the same epoch and beside dense stopped early within the same FLOPs"
    assert since == f"X is below dense from epoch 2 on ({beside})"
    assert needs == "dense reaches its best with 1.50 times its FLOPs"
    table["best"]["X"] = row(1.8, -0.05, 2e6)
    assert "does not reach its best with up to 1.50 times" in tables.catches_up(table, "X")
    epochs["2"]["X"]["at_equal_flops"] = [0.0, -0.01, 0.01, 0, 0]
    assert "not at the last epoch" in tables.catches_up(table, "X")


@pytest.mark.parametrize(
    ("validation", "flops", "wanted"),
    [
        ([3.0, 2.0, 1.0], 0.9e6, None),
        ([3.0, 2.0, 1.0], 1e6, 8.0),
        ([3.0, 2.0, 1.0], 1e7, 7.0),
        ([3.0, 2.0, 1.0], 1e9, 5.5),
        ([3.0, 2.0, 1.0], 1e11, 5.0),
        ([1.0, 2.0, 3.0], 1e7, 8.0),
        ([1.0, 2.0, 3.0], 1e11, 8.0),
        ([3.0, 1.0, 2.0], 1e7, 7.0),
        ([3.0, 1.0, 2.0], 1e9, 6.0),
        ([3.0, 1.0, 2.0], 1e10, 6.0),
        ([2.0, 3.0, 1.9], 1e9, 8.0),
    ],
)
def test_beside_a_model_that_may_stop_before_it_cost_as_much(
    validation: list[float], flops: float, wanted: float | None
):
    """Falling, rising and turning; on a line over the logarithm of its FLOPs while it falls. The last one would have to
    pass a worse look to come to a better one.
    """
    import fits

    sums = [np.array([8.0, 4.0]), np.array([6.0, 4.0]), np.array([5.0, 4.0])]
    looks = [fits.Look(*one) for one in zip((1e6, 1e8, 1e10), validation, sums, strict=True)]
    found = fits.stopped_early(looks, flops)
    assert (found is None) if wanted is None else (found is not None and found.tolist() == pytest.approx([wanted, 4]))


def trained(name: str, seed: int, losses: list[float], decay: float = 0.1, flops: float = 1e6) -> object:
    """A training of E1 that never was: its losses at the epochs 1, 2 and so on."""
    import e1

    looks = {str(epoch): {"calibrated": loss} for epoch, loss in enumerate(losses, start=1)}
    point = e1.Point(name=name, expert=TransformerConfig(), width=96, seed=seed, weight_decay=decay,
                     epochs=len(losses), window=8, batch=1, rate=0.1)  # fmt: skip
    return e1.Trained(point, {"looks": looks, "flops_per_epoch": flops, "parameters": 7})


def test_e1_stops_dense_at_each_seed_for_itself():
    """Of two seeds the first turns up after an epoch, the second does not; all settings that were tried are told."""
    import e1
    import tables

    found = object.__new__(e1.Experiment)
    found.wanted, found.longer = Namespace(seeds=[1, 2], first_seed=1), [1, 2]
    found.text = SimpleNamespace(bytes=10, tokens=[0] * 5, test=[SimpleNamespace(bytes=50)] * 40)  # type: ignore[assignment]
    tried = [trained("dense", 1, [3.0, 4.0]), trained("dense", 1, [3.5, 3.2], decay=0.5)]
    members = [trained("transformer", 1, [5.0, 4.0]), trained("transformer", 2, [5.0, 4.0])]
    found.known = {("dense", 1): tried[0], ("dense", 2): trained("dense", 2, [4.0, 3.0])}
    found.known |= {("transformer", seed): one for seed, one in enumerate(members, start=1)}
    found.compared = {"dense": tried, "transformer": members[:1]}
    ours, first, second = (np.full(40, nats) for nats in (95.0, 100.0, 200.0))
    tested = {
        "T": {epoch: [ours, ours] for epoch in (None, 1, 2)},
        "dense": {None: [first, second], 1: [first, first], 2: [second, second]},
    }
    table = e1.tabulate(found, {"T": ("transformer",), "dense": ("dense",)}, tested)
    bits = math.log(2) * 50
    assert table["epochs"]["2"]["T"]["dense_stopped_early"] == pytest.approx([100 / bits, 200 / bits])
    at_equal = table["epochs"]["2"]["T"]["at_equal_flops"]
    assert [at_equal[0], *at_equal[3:]] == pytest.approx([(-0.05 - 0.525) / 2, -0.525, -0.05])
    assert table["epochs"]["2"]["T"]["against_dense"][0] == pytest.approx(-0.525)
    assert table["epochs"]["2"]["dense"]["dense_stopped_early"] == pytest.approx([100 / bits, 200 / bits])
    assert table["epochs"]["2"]["dense"]["at_equal_flops"] is None and list(table["grid"]) == ["dense", "transformer"]
    _, _, *rows = tables.grid_table(table)
    assert rows == [
        "| dense | 4 x 96 | 0.1 | 0 | **3.0000** | 1 of 2 |",
        "| dense | 4 x 96 | 0.5 | 0 | 3.2000 | 2 of 2 |",
        "| transformer | 4 x 96 | 0.1 | 0 | **4.0000** | 2 of 2 |",
    ]


def test_a_scan_counts_where_it_is_no_matrix_product():
    import speakers

    s6 = StateSpaceConfig(form="s6", n_layers=2, inner=8, n_state=4)
    assert speakers.scan_flops(s6) == 21 * 2 * 8 * 4
    assert speakers.scan_flops(StateSpaceConfig(form="ssd")) == speakers.scan_flops(TransformerConfig()) == 0


@pytest.mark.parametrize(
    ("script", "more", "variants"),
    [
        ("e2", ["--shares", "0.2", "0.4"], ["table 20%", "table 40%"]),
        ("e2", ["--shares", "0.2", "0.4", "--equal"], ["table 20%", "table 40%"]),
        ("e3", ["--leans", "5"], ["all alike", "own domain x 5"]),
        ("e4", ["--shares", "0.25"], ["frozen", "joint 25%"]),
    ],
)
def test_runs_are_compared_seed_by_seed(
    script: str, more: list[str], variants: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    tmp_path: Path,
):  # fmt: skip
    """With runs that never were: every variant is a configuration that there is, the table and the picture have all."""
    import runs

    asked: list[PipelineConfig] = []

    def outcome(config: PipelineConfig, root: Path) -> object:
        asked.append(config)
        dice = np.random.default_rng(len(asked))
        scorers = (*config.members, "mixture", "static", "uniform", "dense")
        nats = {name: dice.uniform(50, 100, 30) for name in scorers}
        return runs.Outcome(nats=nats, members=config.members, bytes=900, flops=1e9)

    monkeypatch.setattr(runs, "outcome", outcome)
    monkeypatch.setattr(runs, "training_flops", lambda config, root: cost_of(config))
    drawn = tmp_path / "drawn.svg"
    monkeypatch.setattr(
        sys, "argv",
        [script, "--preset", "nano", "--seeds", "1", "2", "--dense", "--json", "--picture", str(drawn), *more],
    )  # fmt: skip
    importlib.import_module(script).main()
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert all(f"<!-- {name} -->" in drawn.read_text() for name in (*variants, "best expert", "dense"))
    assert list(found["rows"]) == variants and [config.seed for config in asked] == [1, 1, 2, 2]
    for name, row in found["rows"].items():
        assert len(row["bits_per_byte"]["mixture"]) == len(row["bits_per_byte"]["dense"]) == 2
        assert (row["against"][found["base"]] is None) == (name == found["base"])
    one, two = asked[:2]
    spent = [config.pretrain.tokens + config.router.joint_tokens for config in (one, two)]
    tables = [config.embedding.train.tokens for config in (one, two)]
    assert (spent[0] == spent[1]) != ("--equal" in more or script == "e4")
    assert (tables[0] != tables[1]) == (script == "e2")
    if "--equal" in more:
        assert abs(3 * spent[0] + tables[0] - 3 * spent[1] - tables[1]) <= 3
    if script == "e4":
        assert cost_of(one) == pytest.approx(cost_of(two), rel=0.005)
        assert two.pretrain.tokens == 45_000 and two.router.joint_tokens % 512 == 0


def cost_of(config: PipelineConfig) -> float:
    """As if a token cost an expert 1 and a joint training of three 2."""
    window, tokens = config.space.window, config.router.joint_tokens
    joint = dataclasses.replace(config.router.train, tokens=tokens).whole_tokens(window) if tokens else 0
    return 7000 + 3.0 * config.pretrain.whole_tokens(window) + 2.0 * joint


def test_e4_says_when_its_budget_is_too_small_to_be_equal(monkeypatch: pytest.MonkeyPatch):
    """A joint step is larger than what 0.5% leave."""
    import runs

    monkeypatch.setattr(runs, "training_flops", lambda config, root: cost_of(config))
    monkeypatch.setattr(runs, "outcome", None)
    monkeypatch.setattr(sys, "argv", ["e4", "--preset", "nano", "--tokens", "1024", "--shares", "0.25"])
    with pytest.raises(SystemExit, match=r"wanted training FLOPs within 0.5% .* got [+-].*; raise --tokens"):
        importlib.import_module("e4").main()


@pytest.mark.slow
def test_what_trainings_will_take_is_what_they_took(tmp_path: Path):
    """Of a run with a joint training, at toy size."""
    import runs

    wanted = Namespace(dense=False, threads=1, tokens=1024, settings=None, preset="nano")
    little = {"embedding": {"train": {"tokens": 1024}}, "router": {"joint_tokens": 1024, "train": {"tokens": 1024}}}
    config = runs.configure(wanted, 1, little)
    made = runs.artifacts(config, tmp_path, "router")
    took = sum(made[name].summary["flops"] for name in (*config.members, "router"))
    assert runs.training_flops(config, tmp_path) == pytest.approx(took, rel=1e-4)


def documents(seed: int) -> pd.DataFrame:
    """A run's documents: the second of three is short, and one member is the best at seed 0, the other at seed 1."""
    nats = {"a": [10.0 + seed, 20, 30], "b": [10.5, 20, 30], "mixture": [9.0, 19, 28], "dense": [9.0, 18, 27]}
    late = {"late.off": [4.0, 0, 6], "late.memory": [3.0, 0, 5], "late.shuffled": [5.0, 0, 6 + seed]}
    scored = {f"calibrated.{name}": values for name, values in (nats | late).items()}
    about = {"domain": ["x", "x", "y"], "bytes": [10, 20, 30], "tokens": [5, 10, 15]}
    return pd.DataFrame(about | scored | {"weight.a": [0.5] * 3, "weight.b": [0.5] * 3})


def test_seeds_of_a_run_are_put_side_by_side():
    import seeds

    table = seeds.compare([documents(0), documents(1)])
    rows, bits = table["rows"], math.log(2) * 60
    assert list(rows) == ["a", "b", "mixture", "dense", "best expert"] and table["documents"] == 3
    assert rows["best expert"]["bits_per_byte"] == pytest.approx([60 / bits, 60.5 / bits])
    assert rows["a"]["bits_per_byte"] == pytest.approx([60 / bits, 61 / bits])
    mean, _, _, least, most = rows["best expert"]["mixture"]
    assert [mean, least, most] == pytest.approx([(56 / 60 + 56 / 60.5) / 2 - 1, 56 / 60.5 - 1, 56 / 60 - 1])
    assert rows["mixture"]["best expert"] == rows["best expert"]["mixture"] and rows["mixture"]["mixture"] is None
    assert rows["dense"]["dense"] is None and rows["mixture"]["dense"][0] == pytest.approx(56 / 54 - 1)
    late = table["late"]
    assert late["documents"] == 2 and late["memory"][0] == pytest.approx(-0.2)
    assert late["shuffled"][0] == pytest.approx((11 / 10 + 12 / 10) / 2 - 1)
    assert len(seeds.rows_table(table)) == 2 + len(rows) and len(seeds.late_table(table)) == 3
    assert table["memories"] == {} and seeds.memories_table(table) == []


def test_rows_with_a_memory_are_set_against_the_mixture_without():
    import seeds

    frames = [documents(seed).assign(**{"calibrated.scratch": [8.0, 18, 25]}) for seed in (0, 1)]
    table = seeds.compare(frames)
    assert "scratch" not in table["rows"] and list(table["memories"]) == ["scratch"]
    assert table["memories"]["scratch"]["off"][0] == pytest.approx(51 / 56 - 1)
    assert len(seeds.memories_table(table)) == 3


def test_of_seeds_only_what_all_of_them_have_is_told():
    """No dense control at the second, nothing beyond the window; other documents are refused."""
    import seeds

    less = documents(1).drop(columns=["calibrated.dense", "calibrated.late.off"])
    table = seeds.compare([documents(0), less])
    assert "dense" not in table["rows"] and table["rows"]["mixture"]["dense"] is None
    assert table["late"] is None and seeds.late_table(table) == []
    with pytest.raises(SystemExit, match="different documents"):
        seeds.compare([documents(0), less.assign(bytes=[1, 2, 3])])


def test_a_root_without_an_evaluation_is_told(tmp_path: Path):
    import seeds

    with pytest.raises(SystemExit, match="holds no finished evaluation"):
        seeds.documents_of(tmp_path)


class Here(TrainingStage):
    """A training that says where it took place."""

    name = "here"

    def modules(self) -> list[str]:
        return []

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict:
        assert trainer.work == out / "work"
        return {"process": os.getpid()}


def test_trainings_take_their_turns_in_this_process(tmp_path: Path):
    """The artifact is there, curve and all, and is not made again."""
    import runs

    nodes = [Node(Here(Job(space=SpaceConfig(), seed=1, compute=ComputeConfig(device="cpu")))) for _ in range(2)]
    first, again = (runs.make(node, tmp_path, {}) for node in nodes)
    assert first == again and first.summary == {"process": os.getpid()}
    assert (first.path / "curve.json").is_file() and not (first.path / "work").exists()


@pytest.mark.slow
def test_e1_ends_with_its_tables_and_trains_nothing_twice(tmp_path: Path):
    """At toy size, two seeds; the second look only measures."""
    import subprocess

    command = [sys.executable, str(FOLDER / "e1.py"), "--root", str(tmp_path), "--seeds", "1", "2", "--bytes", "20000"]
    command += ["--vocabulary", "512", "--width", "32", "--layers", "1", "--inner", "64", "--dense-widths", "32"]
    command += ["--window", "64", "--epochs", "1", "2", "--grid", "0.1:0.1", "0.5:0.2", "--fit-tokens", "4000"]
    command += ["--test-tokens", "4000", "--picture", str(tmp_path / "e1.svg"), "--json"]
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=900, check=True) for _ in range(2)]
    assert "trains" in runs[0].stdout and "trains" not in runs[1].stdout
    found, again = (json.loads(run.stdout.splitlines()[-1]) for run in runs)
    assert found == again and (tmp_path / "e1.svg").read_text().startswith("<?xml")
    assert all(len(row["bits_per_byte"]) == 2 and row["flops"] > 0 for row in found["best"].values())
    assert found["best"]["T+T'+S"]["parameters"] == pytest.approx(found["best"]["dense"]["parameters"], rel=0.03)
    assert set(found["epochs"]) == {"1", "2", "3"} and set(found["epochs"]["3"]) == {"dense"}
    assert all(len(tried) == 2 and sum(one["chosen"] for one in tried) == 1 for tried in found["grid"].values())
    assert all(math.isfinite(value) for row in found["epochs"].values() for one in row.values()
               for value in one["bits_per_byte"])  # fmt: skip
