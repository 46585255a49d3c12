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


def test_every_way_writes_and_every_ratio_is_told() -> None:
    """At toy sizes."""
    command = [sys.executable, "benchmarks/generate.py", "--preset", "nano", "--vocabulary", "300", "--threads", "1"]
    command += ["--rounds", "1", "--tokens", "4", "--prompt", "3", "--entries", "900", "--contexts", "8", "40"]
    command += ["--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratios"].keys() == {*RATIOS}
    assert min(found["ratios"].values()) > 0
    assert {name for name in found["by_threads"]["1"] if "rate." in name} == {f"rate.{name}" for name in WAYS}
