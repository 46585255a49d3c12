"""The benchmark of the memory runs and says what it promises; its figures are nobody's verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from nano_think.memory.entries import Entries
from nano_think.memory.store import VectorStore

ROOT = Path(__file__).parents[2]


def test_memory_benchmark_measures_every_index(tmp_path: Path) -> None:
    """At toy sizes: every kind is searched, also over a model's own memory, and a memory is written and opened."""
    keys = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    place = tmp_path / "root" / "memory" / "key" / "store.safetensors"
    place.parent.mkdir(parents=True)
    VectorStore(Entries.of(keys / np.linalg.norm(keys, axis=1, keepdims=True), np.arange(300))).save(place)
    command = [sys.executable, "benchmarks/memory.py", "--sizes", "600", "1200", "--width", "16", "--queries", "20"]
    command += ["--rounds", "1", "--preset", "nano", "--root", str(tmp_path / "root"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sizes"].keys() == {"600", "1200"} and found["decode_ms"] > 0
    for kinds in (*found["sizes"].values(), found["own"]):
        assert kinds.keys() == {"flat", "ivf", "hnsw"} and kinds["flat"]["recall"] == kinds["flat"]["speedup"] == 1
        assert all(one["qps"] > 0 < one["qps_batch"] and one["retrieval_share"] > 0 for one in kinds.values())
        assert kinds["ivf"]["recall"] > 0.9 and kinds["hnsw"]["recall"] > 0.9
        assert 1 <= kinds["ivf"]["probes"] <= kinds["ivf"]["lists"] and kinds["ivf"]["speedup_batch"] > 0
    assert found["log"]["entries"] == 1200 and found["log"]["append_rate"].keys() == {"512", "32"}
    assert not list(tmp_path.glob("nano_think*"))
