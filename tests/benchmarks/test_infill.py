"""The infill benchmark cuts gaps from held-out documents and fills them in three sights of what follows."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "infill.py"


def test_gaps_are_filled_with_and_without_what_follows(nano_run):
    command = [sys.executable, str(FILE), "--model", str(nano_run.folder("router")), "--gaps", "3", "--context", "8"]
    done = subprocess.run(
        [*command, "--sizes", "2", "--steps", "1", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert list(found) == ["both", "before", "other", "both - before", "other - before"]
    assert all(low <= mean <= high for mean, low, high in found.values())
