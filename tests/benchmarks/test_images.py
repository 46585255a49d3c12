"""The benchmark of pictures runs, and says what is asked of it."""

import json
import subprocess
import sys
from pathlib import Path

from nano_think.parts import PARTS
from tests.tiny_chat_model import write_chat_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "images.py"


def test_it_trains_and_judges(tmp_path):
    model = write_chat_model(tmp_path, *PARTS).path
    command = [sys.executable, SCRIPT, "--model", model, "--seeds", "1", "--steps", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["seeds"]["1"]
    assert found.keys() == {"patches", "body", "shuffled", "logistic"}
    for one in found.values():
        assert one["items"] == 359 and 0.1 < one["chance"] < 0.15
        assert 0 <= one["low"] <= one["score"] <= one["high"] <= 1
    assert found["logistic"]["score"] > 0.9
