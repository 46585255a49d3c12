"""kill -9 of a real training, three times, at steps drawn at random: in the end the weights are those of a run that
nobody has disturbed.
"""

import os
import random
import signal
from pathlib import Path

import pytest

from nano_think.core.files import sha256
from nano_think.experts import EXPERTS
from tests.tiny_launch import STEPS, end, launch, read_until_saved


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERTS)
def test_killed_three_times_and_the_same_weights(name: str, tmp_path: Path):
    """Dropout on; sha256 of the file of all weights."""
    events = end(launch(tmp_path, "whole", 1, 0.2, name))
    assert not [event for event in events if event["event"] == "resumed"]
    steps = sorted(random.Random(os.urandom(8)).sample(range(1, STEPS - 6), 3))
    for step in steps:
        process = launch(tmp_path, "cut", 1, 0.2, name)
        os.kill(read_until_saved(process, step), signal.SIGKILL)
        process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL
    events = end(launch(tmp_path, "cut", 1, 0.2, name))
    assert [event["step"] for event in events if event["event"] == "resumed"] >= [steps[-1]], steps
    digests = [sha256(tmp_path / out / "weights.safetensors") for out in ("whole", "cut")]
    assert digests[0] == digests[1], steps
