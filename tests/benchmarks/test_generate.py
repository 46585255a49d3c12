"""The benchmark of writing runs and says what it promises; its figures are nobody's verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAYS = ("hf_llama", "transformer", "diffuser", "state_space", "mixture", "plain", "memory", "memory_random")
MEMORY = ("with_memory", "with_memory_random")
RATIOS = ("transformer_vs_hf", "mixture_vs_plain", "mixture_vs_transformer", *MEMORY, "flat")


def measure(*arguments: object) -> dict:
    command = [sys.executable, "benchmarks/generate.py", "--threads", "1", "--rounds", "1", "--tokens", "4", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command += map(str, arguments)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_way_writes_and_every_ratio_is_told() -> None:
    """At toy sizes."""
    sizes = ["--preset", "nano", "--vocabulary", 300, "--prompt", 3, "--entries", 900, "--contexts", 8, 40]
    found = measure(*sizes)
    assert found["ratios"].keys() == {*RATIOS}
    assert min(found["ratios"].values()) > 0
    assert {name for name in found["by_threads"]["1"] if "rate." in name} == {f"rate.{name}" for name in WAYS}


def test_every_way_of_drafting_is_told(nano_run) -> None:
    """Of a trained model."""
    sizes = ["--parts", "draft", "--draft-tokens", 1, 2, "--draft-steps", 1]
    found = measure(*sizes, "--model", nano_run.folder("router"))
    ways = {
        f"{name}.{n}{steps}"
        for name, steps in (("transformer", ""), ("diffuser", ".1"), ("state_space", ""))
        for n in (1, 2)
    }
    wanted = {f"draft.{way}.temperature_{t}" for way in ways for t in (0.0, 0.8)}
    assert found["ratios"].keys() == wanted
    assert all(0 <= found["by_threads"]["1"][f"accepted.{name}"] <= 2 for name in wanted)
