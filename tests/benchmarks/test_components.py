"""The table of parts says what the figures say, and every part can be measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.parts import PARTS

FOLDER = Path(__file__).parents[2] / "benchmarks"
RUN = {
    "part": "psyche", "metric": "m", "better": "lower", "value": 0.5, "null": "n", "null_value": 0.9,
    "parameters": 0.01, "flops": 0.02, "bits_per_byte": 0.001,
}  # fmt: skip


def table_of(tmp_path: Path, runs: list[dict]) -> str:
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(RUN | {"seed": seed} | run) + "\n" for seed, run in enumerate(runs)))
    command = [sys.executable, str(FOLDER / "components.py"), "--table", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout


CASES = {
    "beyond doubt": ([{"value": v} for v in (0.50, 0.51, 0.52)], "0.510 [0.485, 0.535]", "| may be on |"),
    "too few": ([{}], "0.500 |", "| off: does not beat its null beyond doubt |"),
    "the wrong way": ([{"better": "higher", "value": v} for v in (0.50, 0.51, 0.52)], "", "| off: does not beat"),
    "dear": ([{"value": v, "bits_per_byte": 0.004} for v in (0.50, 0.51, 0.52)], "+0.40%", "| off: may cost more"),
    "as good": ([{"asks_for_no_gain": True, "bits_per_byte": c} for c in (0.001, 0.0011)], "", "| as good: within"),
    "may be worse": ([{"asks_for_no_gain": True, "bits_per_byte": c} for c in (0.001, 0.002)], "", "| may be worse"),
    "cost unknown": ([{"value": v, "bits_per_byte": None} for v in (0.5, 0.51, 0.52)], "not measured", ": off |"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_table_judges_by_its_intervals(case: str, tmp_path: Path):
    runs, cell, verdict = CASES[case]
    said = table_of(tmp_path, runs)
    assert cell in said and verdict in said


def test_every_part_has_a_measure():
    named = {path.stem for path in (FOLDER / "component_ways").glob("*.py")} - {"__init__", "ground"}
    assert named == {*PARTS, "memes", "body"}


@pytest.mark.slow
@pytest.mark.parametrize("part", [*PARTS, "memes", "body"])
def test_a_part_is_measured(part: str, tmp_path: Path):
    """At toy size: the figures mean nothing."""
    command = [sys.executable, str(FOLDER / "components.py"), "--part", part, "--seeds", "1", "--tokens", "4000"]
    command += ["--preset", "chat-nano", "--root", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert found["part"] == part and (found["parameters"] > 0 or part == "body") and found["value"] == found["value"]
