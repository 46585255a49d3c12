"""The needle benchmark runs, asks for what is there, and prints what checkpointing keeps."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
ASKED = """
import numpy as np, needle
for seed in range(50):
    ids = needle.haystack(np.random.default_rng(seed), 100, 4, 6)
    for at in range(len(ids) - 28, len(ids), 7):
        told, key, end, opens, again, value, ends = ids[at : at + 7].tolist()
        hay = ids[: len(ids) - 28]
        assert (end, opens, again, ends) == (needle.USER_END, needle.OPENS, key, needle.ENDS)
        (place,) = np.flatnonzero(hay == key)
        assert hay[place + 1] == value and needle.FIRST_VALUE <= value < needle.FIRST_WORD
    said = needle.pairs_alone(np.random.default_rng(seed), 25)[5:]
    told = dict(zip(said[::2].tolist(), said[1::2].tolist()))
    assert len(said) == 20 and len(told) <= needle.PAIRS and min(told) >= 5 and min(told.values()) >= needle.FIRST_VALUE
    assert all(told[key] == value for key, value in zip(said[::2].tolist(), said[1::2].tolist()))
assert needle.Haystacks(99, 2, 1).batch(3).shape == (2, 100) and needle.Haystacks(24, 2, 1).batch(0).shape == (2, 25)
"""


def test_what_is_asked_for_stands_once_in_the_haystack():
    subprocess.run([sys.executable, "-c", ASKED], cwd=FOLDER, timeout=600, check=True)


def test_it_trains_finds_and_measures():
    command = [
        sys.executable,
        str(FOLDER / "needle.py"),
        "--train",
        "64",
        "128",
        "--pairs",
        "2",
        "--steps",
        "3",
        "2",
        "--lengths",
        "64",
    ]
    command += ["128", "256", "--asked", "5", "--shape", "16", "2", "2", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["trained"] for one in found["found"].values()] == [True, True, False]
    kept = found["checkpointing"]["megabytes"]
    assert 0 < kept["checkpointed"] < kept["plain"] and all(found["checkpointing"]["seconds"].values())
