"""Experts one after another and experts at once: the same bits."""

import pytest

from nano_think.experts import EXPERTS
from nano_think.stages.artifact import finished, open_artifact
from tests.conftest import NANO

TRAINED = ("embedding", *EXPERTS)


@pytest.mark.slow
def test_serial_run_has_the_digests_of_the_parallel_one(nano_run, commands):
    """Threads are the configuration's, so that whoever trains beside does not matter."""
    done = commands(*NANO, "--at-once", 1, "--until", *EXPERTS, "--root", "root")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.split(":")[0] in EXPERTS and "step" in line]
    order = [line.split(":")[0] for line in lines]
    assert [name for n, name in enumerate(order) if order[n - 1 : n] != [name]] == list(dict.fromkeys(order))
    for name in TRAINED:
        (place,) = finished(commands.folder / "root", name)
        there = open_artifact(nano_run.folder(name))
        assert (place.name, open_artifact(place).digest) == (there.key, there.digest)
