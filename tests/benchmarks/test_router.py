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
    for fusion, one in found["measured"].items():
        ways = {"read_back", "read_back_logits"} if fusion.startswith("hidden") else {"read_back"}
        assert {way for way in one if way.startswith("read_back")} == ways and one["computed_anew"] > 0
        for way in ways:
            assert one[way]["build"].keys() == {"experts", "write"} and one[way]["megabytes_per_window"] > 0
        assert one["read_back"]["largest_difference"] == 0
