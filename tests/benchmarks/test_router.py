"""The benchmark of the router's training runs, and refuses to time ways that do not agree."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "router.py"


def test_both_ways_are_timed_and_agree():
    command = [
        sys.executable,
        str(FILE),
        "--preset",
        "nano",
        "--threads",
        "1",
        "--batch",
        "2",
        "--rounds",
        "1",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratios"].keys() == {"hidden", "probability"} and min(found["ratios"].values()) > 0
    for one in found["measured"].values():
        assert one["build"].keys() == {"experts", "write"} and one["megabytes_per_window"] > 0
