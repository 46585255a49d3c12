"""Three processes at once on a store that is not there yet: MLflow itself destroys it that way."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest

PROCESSES, REPEATS, POINTS = 3, 10, 120
# What a training does: open the store, make a run, tell figures and a tag, end it; for each root that it is told.
TELL = """
import sys
from pathlib import Path
from nano_think.stages.tracking import Run
from nano_think.stages.tracking_store import make_store
import mlflow.tracking

print("ready", flush=True)
for root in map(str.strip, sys.stdin):
    client, uri, experiment = make_store(Path(root))
    run = Run(client, uri, client.create_run(experiment).info.run_id, experiment)
    for step in range(int(sys.argv[1])):
        run.metrics({"train/loss": float(step)}, step)
    run.tags({"stage": "expert"})
    run.end("FINISHED")
    print(run.run, flush=True)
"""


@pytest.fixture
def experts():
    """Processes that wait for the place of a store."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TELL, str(POINTS)]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(PROCESSES)]
        for one in started:
            stack.callback(one.kill)
        assert [one.stdout.readline() for one in started] == ["ready\n"] * PROCESSES
        yield started


@pytest.mark.slow
def test_all_log_and_nothing_is_corrupted(experts, tmp_path):
    """Ten empty stores: every run has its points, every store is whole, and in write-ahead mode."""
    for repeat in range(REPEATS):
        root = tmp_path / str(repeat)
        root.mkdir()
        for one in experts:
            one.stdin.write(f"{root}\n")
            one.stdin.flush()
        runs = [one.stdout.readline().strip() for one in experts]
        with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as store:
            assert store.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert store.execute("pragma journal_mode").fetchone() == ("wal",)
            assert store.execute("select distinct status from runs").fetchall() == [("FINISHED",)]
            counts = store.execute("select run_uuid, count(*) from metrics group by run_uuid").fetchall()
        assert dict(counts) == dict.fromkeys(runs, POINTS)
