"""The benchmark of the data stages runs and says what it promises; its figures are nobody's verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_data_benchmark_compares_the_same_work(tmp_path: Path) -> None:
    """On a tiny file, with duplicates and an empty text."""
    pytest.importorskip("datasets")
    rows = [f"the cat sat on a mat and saw {number % 90} dogs; they said {number % 90 * 7}" for number in range(120)]
    lines = [json.dumps({"text": text, "source": "made", "id": str(number)}) for number, text in enumerate([*rows, ""])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "benchmarks/data.py", "--sources", f"jsonl:{tmp_path}/*.jsonl", "--mode", "threads"]
    command += ["--vocab-size", "290", "--runs", "1", "--threads", "1", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratios"].keys() == {"end_to_end", "bpe_train", "encode", "encode_fast"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert (found["documents"], found["plain_mode"], found["threads"]) == (90, "threads", 1)
    assert found["peak_rss_bytes"] > 2**20 < found["plain_peak_rss_bytes"]
    assert "peak memory" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
