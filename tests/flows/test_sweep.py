"""`nano-think sweep`: a run for each point, what they share made once, and a table of them."""

import contextlib
import json
import shutil
import signal
import sqlite3
from types import SimpleNamespace

import pytest

from flows import sweep
from nano_think.core.config import to_dict
from nano_think.core.errors import DivergedError, Interrupted
from nano_think.stages.grid import grid
from nano_think.stages.pipeline import load
from tests.checkout import wait_for
from tests.conftest import NANO, PATIENCE

OVER = ("--over", "evaluate.sample_tokens=4,6")


def fake(tmp_path, bits):
    """What a run of these bits per byte makes."""
    results = {"bits_per_byte": bits, "uniform": 3.0, "dense": None, "experts": {"toy": bits + 0.1}, "tokens": 8}
    return {
        "evaluate": SimpleNamespace(summary=results),
        "report": SimpleNamespace(path=tmp_path / str(bits)),
        "router": SimpleNamespace(path=tmp_path / "router"),
    }


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """runs(2.5, error, ...) are what the points of a sweep come to; the points that were asked for."""
    asked = []

    def prepare(*ends):
        def run(preset, overrides, root):
            asked.append(overrides["seed"])
            end = ends[len(asked) - 1]
            if isinstance(end, BaseException):
                raise end
            return fake(tmp_path, end)

        monkeypatch.setattr("flows.full_pipeline.full_pipeline", run)
        monkeypatch.setattr("flows.local.prefect_api", lambda root: contextlib.nullcontext(lambda: None))
        monkeypatch.setattr(sweep, "FinishedRun", lambda report: SimpleNamespace(evaluation=lambda: "one text"))
        return asked

    return prepare


def swept(say, tmp_path):
    return say("sweep", "--preset", "nano", "--over", "seed=1,2,3", "--root", tmp_path / "root", "--json")


def statuses(root):
    """Name and state of every run in MLflow, and whether another is above it."""
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as store:
        above = "select run_uuid from tags where key = 'mlflow.parentRunId'"
        return store.execute(f"select name, status, run_uuid in ({above}) from runs order by start_time").fetchall()


def test_table_has_the_best_point_first(say, tmp_path, runs):
    """In the terminal and as JSON; the sweep is a run in MLflow."""
    runs(2.5, 2.25, 2.75)
    told = swept(say, tmp_path)
    assert told.code == 0, told.err
    assert [point["settings"]["seed"] for point in told.json["points"]] == [2, 1, 3]
    rows = told.out.splitlines()
    assert rows[0].split()[:2] == ["seed", "mixture"] and rows[1].split()[:4] == ["2", "2.250", "2.350", "(toy)"]
    assert statuses(tmp_path / "root") == [("nano, sweep", "FINISHED", 0)]


def test_point_that_fails_does_not_end_the_others(say, tmp_path, runs):
    """It is said, comes last, and the exit code is what its own would have been."""
    asked = runs(2.5, DivergedError("toy: no finite loss"), 2.25)
    told = swept(say, tmp_path)
    assert told.code == 7 and asked == [1, 2, 3]
    assert "seed=2 failed: toy: no finite loss" in told.err
    assert [point["settings"]["seed"] for point in told.json["points"]] == [3, 1, 2]
    assert told.json["points"][-1]["error"] == {"code": 7, "message": "toy: no finite loss"}
    assert statuses(tmp_path / "root") == [("nano, sweep", "FAILED", 0)]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Interrupted(signal.SIGINT)], ids=["flow", "training"])
def test_who_is_asked_to_stop_stops(say, tmp_path, runs, end):
    """No further point begins, and MLflow hears it."""
    asked = runs(2.5, end, 2.25)
    assert swept(say, tmp_path).code == 130 and asked == [1, 2]
    assert statuses(tmp_path / "root") == [("nano, sweep", "KILLED", 0)]


def test_wrong_points_are_refused_before_there_is_a_root(say, tmp_path):
    """Exit code 2 and one line."""
    told = say("sweep", "--preset", "nano", "--over", "sead=1,2", "--root", tmp_path / "root")
    assert told.code == 2 and "Did you mean 'seed'" in told.err and told.err.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_points_are_the_configurations_of_ordinary_runs(runs, tmp_path):
    """What the flow is given is all settings, and its root."""
    runs(2.5)
    (point,) = grid(load("nano"), ["seed=7"])
    assert sweep.try_point(point, "nano", tmp_path).artifacts and to_dict(point.config)["seed"] == 7


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE * 600)
def test_points_share_what_they_can_and_a_second_sweep_makes_nothing(nano_run, commands):
    """Real runs: only what the setting changes is made, each run is below the sweep in MLflow, and the same command
    finds everything made.
    """
    root = shutil.copytree(nano_run.root, commands.folder / "root", ignore=shutil.ignore_patterns(".prefect", "mlf*"))
    settings = [word for word in NANO if word != "run"]
    done = commands("sweep", *settings, *OVER, "--root", root)
    assert done.returncode == 0, done.stderr
    made = {line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line}
    assert made == {"evaluate", "report"}
    points = json.loads(done.stdout.splitlines()[-1])["points"]
    assert {point["settings"]["evaluate.sample_tokens"] for point in points} == {4, 6}
    assert {point["bits_per_byte"] for point in points} == {nano_run.told.json["results"]["bits_per_byte"]}
    assert sorted((state, above) for _, state, above in statuses(root)) == [
        ("FINISHED", 0), ("FINISHED", 1), ("FINISHED", 1),
    ]  # fmt: skip
    again = commands("sweep", *settings, *OVER, "--root", root)
    assert again.returncode == 0 and ": done in" not in again.stderr
    assert commands.processes() == {}


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE * 600)
def test_ctrl_c_ends_a_sweep_and_the_same_command_goes_on(nano_run, commands):
    """In the midst of a training: exit code 130, one line, nothing left, every run in MLflow closed."""
    root = commands.folder / "root"
    for stage in ("ingest", "tokenizer", "tokens", "embedding"):
        place = nano_run.folder(stage)
        shutil.copytree(place, root / place.relative_to(nano_run.root))
    settings = [word for word in NANO if word != "run"]
    process = commands.start("sweep", *settings, "--over", "pretrain.tokens=2_000_000,60000", "--root", root)
    wait_for(lambda: list(root.glob("diffuser/*/work/curve.jsonl")), 200)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE * 100)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "point 2 of 2" not in err and err.splitlines()[-1].startswith("nano-think: error: interrupted")
    assert commands.gone(30)
    assert {state for _, state, _ in statuses(root)} == {"KILLED"}
    assert list(root.glob("diffuser/*/work/checkpoint-*/state.json"))
