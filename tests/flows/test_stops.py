"""Kills and stops of a real run: nothing finished is lost, nothing is left behind, and the next run goes on."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import time

import pytest

from nano_think.experts import EXPERTS
from nano_think.stages.artifact import open_artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BEFORE = ("ingest", "tokenizer", "tokens", "embedding")
RUN = ("run", "--preset", "nano", "--compute.threads", 1, "--json", "--root", "root")


@pytest.fixture
def root(nano_run, commands):
    """A root in which everything before the experts is finished already."""
    for stage in BEFORE:
        place = nano_run.folder(stage)
        shutil.copytree(place, commands.folder / "root" / place.relative_to(nano_run.root))
    return commands.folder / "root"


def heard(process, *words):
    """Listen to what a run says until all the words have come; returns what was said."""
    said = ""
    for line in process.stderr:
        said += line
        if all(word in said for word in words):
            return said
    raise AssertionError(f"it ended without saying {words}:\n{said}")


def experts_train(process):
    """Wait until every expert is in the middle of its training."""
    return heard(process, *(f"{name}: step " for name in EXPERTS))


def checkpoints(root):
    """The experts that have a checkpoint."""
    job = {path.parent: json.loads(path.read_text())["config"].get("kind") for path in root.glob("*/*/work/job.json")}
    return {kind for work, kind in job.items() if kind and list(work.glob("checkpoint-*/state.json"))}


def wait_for(condition, seconds=500):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.03)
    assert condition()


def end(process):
    """Read a run to its end: (exit code, the rest of its standard error, seconds that it took)."""
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - started


def mlflow_states(root):
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as store:
        return [state for (state,) in store.execute("select status from runs order by start_time")]


def prefect_states(root):
    """(name, state) of every task run and flow run in Prefect's history."""
    with contextlib.closing(sqlite3.connect(root / ".prefect" / "prefect.db")) as history:
        tasks = history.execute("select name, state_type from task_run").fetchall()
        return tasks + history.execute("select name, state_type from flow_run").fetchall()


def unfinished(root):
    return [one for one in prefect_states(root) if one[1] in ("RUNNING", "PENDING", "SCHEDULED")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_run_saves_and_leaves(root, commands, number, code):
    """One line, the signal's exit code, the experts' work saved, every history closed, no process left."""
    process = commands.start(*RUN, "--pretrain.tokens", 2_000_000, "--pretrain.save-every", 3600)
    experts_train(process)
    process.send_signal(number)
    returned, err, seconds = end(process)
    print(f"left after {seconds:.1f} s")
    assert returned == code, err
    assert err.splitlines()[-1].startswith("nano-think: error: interrupted")
    assert "Traceback" not in err
    assert commands.gone(30)
    assert checkpoints(root) == set(EXPERTS)
    assert set(mlflow_states(root)) == {"KILLED"}
    assert not unfinished(root)


def test_second_ctrl_c_leaves_at_once(root, commands):
    """Exit 130 there and then; what was started notices and goes by itself."""
    process = commands.start(*RUN, "--pretrain.tokens", 2_000_000)
    experts_train(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    returned, err, seconds = end(process)
    print(f"left after {seconds:.1f} s")
    assert returned == 130
    assert "Traceback" not in err
    assert commands.gone(30)


@pytest.mark.parametrize("seconds", [0.3, 2, 6])
def test_run_that_is_stopped_early_leaves_nothing(commands, seconds):
    """While the library is imported, or while the temporary API starts."""
    process = commands.start(*RUN)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    returned, err, _ = end(process)
    assert returned in (130, -signal.SIGINT), err
    assert "Traceback" not in err or seconds < 1
    assert commands.gone(30)


def test_killed_run_goes_on_and_ends_as_if_nothing_had_been(root, commands, nano_run):
    """kill -9 while the experts train: the next run redoes nothing that was finished, goes on from the checkpoints, and
    ends with the same weights, bit for bit, as a run that nobody has disturbed.
    """
    arguments = (*RUN, "--pretrain.save-every", 0.2)
    process = commands.start(*arguments)
    wait_for(lambda: checkpoints(root) >= set(EXPERTS))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert commands.gone(30), commands.processes()
    assert unfinished(root)
    again = commands(*arguments)
    assert again.returncode == 0, again.stderr
    assert all(f"{stage}: up to date" in again.stderr for stage in BEFORE)
    resumed = set(EXPERTS) & set(re.findall(r"^(\w+): goes on from step [1-9]", again.stderr, re.MULTILINE))
    finished = {name for name in EXPERTS if f"{name}: up to date" in again.stderr}
    assert resumed | finished == set(EXPERTS) and resumed
    keys = json.loads(again.stdout.splitlines()[-1])["artifacts"]
    for name in EXPERTS:
        (folder,) = root.glob(f"*/{keys[name]}")
        assert open_artifact(folder).digest == open_artifact(nano_run.folder(name)).digest, name
    assert sorted(set(mlflow_states(root))) == ["FINISHED", "KILLED"]
    assert not unfinished(root) and ("nano", "CRASHED") in prefect_states(root)


def test_killed_expert_is_named_and_the_others_end(root, commands):
    """kill -9 of one training: exit 8 naming it, the others' artifacts are there, and only that one is open."""
    victim = "diffuser"
    process = commands.start(*RUN, "--pretrain.save-every", 0.2)
    wait_for(lambda: victim in checkpoints(root))
    workers = [number for number, words in commands.processes().items() if f"/{victim}/" in words]
    workers = [number for number in workers if "accelerate.commands.launch" not in commands.processes()[number]]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 8, err
    assert victim in err.splitlines()[-1] and "SIGKILL" in err.splitlines()[-1]
    assert "Traceback" not in err
    finished = {path.parts[-3] for path in root.glob("*/*/manifest.json")}
    assert finished == {*BEFORE, *EXPERTS} - {victim}
    assert commands.gone(30)
    assert (f"pretrain-{victim}", "FAILED") in prefect_states(root)
    assert not unfinished(root)
    assert sorted(mlflow_states(root)) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
