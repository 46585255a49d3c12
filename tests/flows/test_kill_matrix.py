"""What is killed or stopped, on the worker and in a terminal: no process stays, and both histories tell the truth.

pytest -m slow tests/flows/test_kill_matrix.py       prints a row for each, with the seconds until all was gone
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass

import pytest

from flows.services import Services
from nano_think.experts import EXPERTS
from tests.checkout import wait_for
from tests.conftest import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE * 600)]
BEFORE = ("ingest", "tokenizer", "tokens", "embedding")
VICTIM = "diffuser"
LONG, SHORT = 2_000_000, 40_000
OPEN = {"RUNNING", "PENDING", "SCHEDULED", "CANCELLING"}


@pytest.fixture(scope="module")
def up(checkout, nano_run):
    """A checkout whose server is up and in which everything before the experts is finished."""
    for stage in BEFORE:
        place = nano_run.folder(stage)
        shutil.copytree(place, checkout.folder / "artifacts" / place.relative_to(nano_run.root))
    told = checkout.up()
    assert told.returncode == 0, told.stderr
    return checkout


def services(up):
    return Services.open(up.folder / "artifacts" / ".services")


@dataclass
class Started:
    """A run whose experts are in the middle of their training."""

    up: object
    where: str
    run: str
    mlflow_before: int
    process: object = None

    def processes(self):
        """Everything that came of it, and nothing of the services."""
        found = services(self.up)
        own = set(found.processes("prefect")) | set(found.processes("mlflow")) | {found.known["worker"]["process"]}
        return {number: words for number, words in self.up.commands.processes().items() if number not in own}

    def flow(self):
        """The process of the flow."""
        marks = ("prefect.engine",) if self.where == "deployed" else ("nano_think run",)
        (found,) = [number for number, words in self.processes().items() if any(mark in words for mark in marks)]
        return found

    def child(self):
        """The process of one training."""
        trains = [number for number, words in self.processes().items() if f"/{VICTIM}/" in words]
        (found,) = [number for number in trains if "accelerate.commands.launch" not in self.processes()[number]]
        return found

    def prefect(self):
        """The state of the run, and how many of its tasks are open."""
        tasks = self.up.tasks(self.run).values()
        return self.up.ask("flow_runs/filter", flow_runs={"id": {"any_": [self.run]}})[0]["state_type"], len(
            [state for state in tasks if state in OPEN]
        )

    def mlflow(self):
        """The states of its runs in MLflow, parent first."""
        with contextlib.closing(sqlite3.connect(self.up.folder / "mlflow.db")) as store:
            rows = store.execute("select status from runs order by start_time").fetchall()
        return [state for (state,) in rows[self.mlflow_before :]]


def start(up, where, tokens):
    """Start a run, on the worker or in a terminal, and wait until every expert has told a step."""
    before = {run["id"] for run in up.runs()}
    with contextlib.closing(sqlite3.connect(up.folder / "mlflow.db")) as store:
        (count,) = store.execute("select count(*) from runs").fetchone()
    process = None
    if where == "deployed":
        settings = f'overrides={{"compute": {{"threads": 1}}, "pretrain": {{"tokens": {tokens}, "save_every": 3600}}}}'
        up.shell("prefect", "deployment", "run", "full-pipeline", "-p", "preset=nano", "-p", settings)
    else:
        flags = ("--compute.threads", 1, "--pretrain.tokens", tokens, "--pretrain.save-every", 3600)
        process = up.commands.start("run", "--preset", "nano", *flags)
    (run,) = wait_for(lambda: {run["id"] for run in up.runs()} - before, 60)
    wanted = {f"progress-{name.replace('_', '-')}" for name in EXPERTS}
    wait_for(lambda: wanted <= up.artifacts(run).keys(), 100, every=0.3)
    return Started(up, where, run, count, process)


def strike(started, what):
    """Do it; the moment from which the cleaning up is timed."""
    if what == "flow":
        os.kill(started.flow(), signal.SIGKILL)
    elif what == "worker":
        os.kill(services(started.up).known["worker"]["process"], signal.SIGKILL)
    elif what == "child":
        os.kill(started.child(), signal.SIGKILL)
    elif what == "Ctrl-C":
        os.kill(services(started.up).known["worker"]["process"] if started.process is None else started.flow(), 2)
    else:
        started.up.shell("prefect", "flow-run", "cancel", started.run)
    return time.monotonic()


# What ends a run -> the state of the run in Prefect, and of its runs in MLflow, once it is gone.
HONEST = {
    "flow": ("CRASHED", {"KILLED"}),
    "worker": ("CRASHED", {"KILLED"}),
    "child": ("FAILED", {"FAILED", "FINISHED"}),
    "Ctrl-C": ("CRASHED", {"KILLED"}),
    "cancel": ("CANCELLED", {"KILLED"}),
}
# kill -9 of what writes a history: it is closed by the next start.
LATER = {("deployed", "flow"), ("local", "flow")}
CELLS = [(where, what) for where in ("deployed", "local") for what in HONEST if (where, what) != ("local", "worker")]


@pytest.mark.parametrize(("where", "what"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_nothing_stays_and_the_truth_is_told(up, capsys, where, what):
    """No process is left; states are right, at once or at the next start; the worker of `up` can be had again."""
    # Where one expert is killed the others are to end.
    started = start(up, where, LONG if what != "child" else SHORT + 1000 * CELLS.index((where, what)))
    struck = strike(started, what)
    if what == "child":
        wait_for(lambda: started.prefect()[0] not in OPEN, 150)
        struck = time.monotonic()
    wait_for(lambda: not started.processes(), 60, every=0.05)
    seconds = time.monotonic() - struck
    state, unfinished = finally_told(started, where, what)
    with capsys.disabled():
        told = f"{where:9} {what:7} left 0 after {seconds:4.1f} s   Prefect {state} ({unfinished} tasks open)"
        print(f"\n{told}   MLflow {' '.join(started.mlflow())}", end="", flush=True)
    assert (state, set(started.mlflow()), unfinished) == (*HONEST[what], 0)
    if started.process:
        started.process.communicate(timeout=PATIENCE * 60)


def finally_told(started, where, what):
    """The states once they are final; after the next start where it has to tell them."""
    if (where, what) in LATER:
        assert "RUNNING" in started.mlflow()
        os.kill(services(started.up).known["worker"]["process"], signal.SIGKILL)
    if not services(started.up).alive("worker") or (where, what) in LATER:
        again = started.up.up()
        assert again.returncode == 0 and "worker had ended" in again.stderr, again.stderr
    with contextlib.suppress(AssertionError):
        wait_for(lambda: started.prefect()[0] not in OPEN and not started.prefect()[1], 15)
    return started.prefect()


def test_power_cut(up, capsys):
    """Everything at once, the servers with it: the next `up` says so and closes what was open."""
    started = start(up, "deployed", LONG)
    up.commands.kill_all()
    wait_for(lambda: not up.commands.processes(), 60)
    assert "RUNNING" in started.mlflow()
    again = up.up()
    assert again.returncode == 0 and "what was up is gone" in again.stderr
    state, unfinished = started.prefect()
    with capsys.disabled():
        print(f"\npower cut, then up: Prefect {state} ({unfinished} tasks open)   MLflow {' '.join(started.mlflow())}")
    assert (state, unfinished, set(started.mlflow())) == ("CRASHED", 0, {"KILLED"})
    up.down()
    assert not up.commands.processes()
