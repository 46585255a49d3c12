"""The seed preset in its full shape: two steps of every stage on a CPU."""

import json

import pytest
from safetensors import safe_open

from nano_think.experts import EXPERTS
from nano_think.stages.pipeline import load

TWO_STEPS = [
    *("--embedding.train.batch", 1, "--embedding.train.tokens", 1024, "--pretrain.batch", 1, "--pretrain.tokens", 1024),
    *("--router.train.batch", 1, "--router.train.tokens", 1024, "--memory.max-entries", 300),
    *("--memory.fit-tokens", 300, "--calibration.fit-tokens", 1000),
    *("--evaluate.max-tokens", 300, "--evaluate.sample-tokens", 1, "--compute.threads", 1),
]


def elements(path):
    """The number of elements of each tensor in a file, without reading them."""
    with safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    sizes = {}
    for name, shape in shapes.items():
        sizes[name] = 1
        for side in shape:
            sizes[name] *= side
    return sizes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_seed_preset_takes_two_steps_of_everything(commands):
    """The shapes of the design, on the starter corpus; the counts that are told are those of the tensors."""
    source = ("--sources", "starter", "--ingest.max-bytes-per-source", 3_000_000)
    done = commands("run", "--preset", "seed", *source, *TWO_STEPS, "--json", "--root", "root", timeout=600)
    assert done.returncode == 0, done.stderr
    root, told = commands.folder / "root", json.loads(done.stdout.splitlines()[-1])
    summaries = {name: next(root.glob(f"*/{key}/manifest.json")) for name, key in told["artifacts"].items()}
    summaries = {name: json.loads(path.read_text())["summary"] for name, path in summaries.items()}
    for name in ("embedding", *EXPERTS, "router"):
        assert summaries[name]["training"]["steps"] == 2, name
    mixture = elements(next(root.glob(f"router/{told['artifacts']['router']}/model.safetensors")))
    # What the diffuser counts while it trains, to draw its noise by, is no parameter.
    mixture = {tensor: size for tensor, size in mixture.items() if ".levels." not in tensor}
    declared = summaries["router"]["parameters"]
    assert declared["whole"] == sum(mixture.values())
    for name in EXPERTS:
        inside = sum(size for tensor, size in mixture.items() if tensor.startswith(f"experts.{name}."))
        assert declared[name] == summaries[name]["parameters"] == inside
    config = load("seed")
    assert declared["token table"] == mixture["head.table"] == config.tokenizer.vocab_size * config.space.width
    page = (commands.folder / told["report"]).read_text(encoding="utf-8")
    assert all(f"{declared[name]:,}" in page for name in (*EXPERTS, "whole"))
