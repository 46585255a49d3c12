"""A fourth expert by one new file: flags, router, flow, tests and report follow by themselves."""

import json
import re
import subprocess
import sys

import pytest

from tests.checkout import copy_checkout

TOY = '''
"""The toy expert: a gated mean over everything before.

B batch, T tokens, D model width
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nano_think.experts import EXPERTS, Expert, ExpertConfig
from nano_think.nn.documents import causal_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig(ExpertConfig):
    """A gated causal mean."""

    loudness: float = 1.0
    """Factor of the output (ratio)."""


@EXPERTS.register("toy")
class Toy(Expert):
    """x -> gate(x) * mean of value(x) up to here, within the document: (B, T, D) -> (B, T, D)."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig, width: int):
        super().__init__()
        self.loudness = config.loudness
        self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        mask_BTT = causal_mask(documents_BT).reshape(documents_BT.shape[0], *x_BTD.shape[1:2] * 2).to(x_BTD.dtype)
        mean_BTD = mask_BTT @ self.value(x_BTD) / mask_BTT.sum(dim=-1, keepdim=True)
        return self.loudness * self.out(torch.sigmoid(self.gate(x_BTD)) * mean_BTD)
'''
FOUR = ["diffuser", "state_space", "toy", "transformer"]
LOOK = """
import json
from nano_think.experts import EXPERTS
from nano_think.models.checkpoint import ModelShape, build_mixture
from nano_think.stages.pipeline import load, plan
nodes = plan(load("nano"))
shape = ModelShape(width=32, vocabulary=64, window=16, start_token=0,
                   experts={name: expert.Config(n_layers=1) for name, expert in EXPERTS.items()})
model = build_mixture(shape)
print(json.dumps({
    "experts": list(EXPERTS), "nodes": {name: node.needs for name, node in nodes.items()}, "names": list(model.names),
    "settings": load("nano").experts.toy.loudness,
}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """This checkout, and one file more."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    (folder / "nano_think" / "experts" / "toy.py").write_text(TOY)
    return folder


@pytest.fixture
def in_checkout(checkout, monkeypatch):
    """in_checkout("-c", code) runs Python there and returns what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=checkout, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_settings_plan_and_router_follow(in_checkout):
    """The registry, the configuration, the plan and the mixture have four experts."""
    seen = json.loads(in_checkout("-c", LOOK))
    assert sorted(seen["experts"]) == sorted(seen["names"]) == FOUR
    assert seen["settings"] == 1.0
    assert seen["nodes"]["toy"] == ["tokens", "embedding"]
    assert "toy" in seen["nodes"]["router"] and "toy" in seen["nodes"]["report"]


def test_flags_follow(in_checkout):
    """`run --help` has the new expert's settings, with their words and defaults."""
    text = in_checkout("-m", "nano_think", "run", "--help")
    assert re.search(r"--experts\.toy\.loudness FLOAT\W+Factor of the output \(ratio\)\. \(default: 1\.0\)", text)


def test_causality_test_follows(in_checkout):
    """The perturbation test takes the new expert in, and it passes."""
    said = in_checkout("-m", "pytest", "-p", "no:cacheprovider", "tests/test_causality.py", "-k", "toy")
    assert re.search(r"\b[1-9]\d* passed", said) and "failed" not in said, said


@pytest.mark.slow
def test_pipeline_follows(checkout, commands):
    """The whole nano pipeline trains, mixes, scores and reports four experts."""
    commands.code = checkout
    small = ("--preset", "nano", "--compute.threads", 1, "--pretrain.tokens", 9000)
    done = commands("run", *small, "--json", "--root", "root")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert sorted(told["results"]["experts"]) == FOUR
    page = (commands.folder / told["report"]).read_text(encoding="utf-8")
    assert "toy" in page
    wrote = commands("generate", "--prompt", "a", "--max-new-tokens", 2, "--json", "--root", "root")
    assert sorted(json.loads(wrote.stdout.splitlines()[-1])["tokens"][0]["weights"]) == FOUR
