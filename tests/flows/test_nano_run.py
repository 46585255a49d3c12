"""What one real run of the nano preset leaves behind, seen from outside."""

import json
import re
import socket
import sqlite3
import time

import pytest
from safetensors.torch import load_file

from nano_think.experts import EXPERTS
from nano_think.models.checkpoint import load_mixture
from nano_think.stages.artifact import open_artifact

FINAL = {"COMPLETED", "CACHED"}
TEXT, AFTER = {"ingest", "tokenizer", "tokens", "embedding"}, {"memory", "calibration", "evaluate", "report"}
STAGES = TEXT | set(EXPERTS) | {"router", "dense"} | AFTER


@pytest.fixture(scope="module")
def mlflow_runs(nano_run):
    """Every MLflow run in the store of the root."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{nano_run.root / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "nano_think"]
    return client, client.search_runs([experiment.experiment_id])


def children_of(runs):
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def parent_of(runs):
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parent


def test_run_ends_well_and_says_where_its_things_are(nano_run):
    """Exit 0, every stage told about, and the places printed exist."""
    print(f"nano run: {nano_run.seconds:.0f} s")
    assert nano_run.told.code == 0, nano_run.told.err
    report = re.search(r"^report +(\S+)$", nano_run.told.out, re.MULTILINE)
    model = re.search(r"^model +(\S+)$", nano_run.told.out, re.MULTILINE)
    assert report[1] == str(nano_run.folder("report") / "report.html") == nano_run.told.json["report"]
    assert model[1] == str(nano_run.folder("router")) == nano_run.told.json["model"]
    assert set(nano_run.told.json["artifacts"]) == STAGES
    assert all(f"{stage}: done in" in nano_run.told.err for stage in STAGES)


def test_run_is_quiet_about_its_tools(nano_run):
    """Prefect and MLflow say nothing, and no warning or traceback is shown."""
    assert not re.search(r"prefect|mlflow|alembic|warning|traceback", nano_run.told.err, re.IGNORECASE), (
        nano_run.told.err
    )


def test_training_tells_its_speed_and_the_time_left(nano_run):
    """Plain lines where there is no terminal: step, loss, tokens per second, time left."""
    for name in ("embedding", *EXPERTS, "router", "dense"):
        pattern = rf"^{name}: step \d+/\d+  loss \d+\.\d+  [\d,]+ tokens/s  .+ left$"
        assert re.search(pattern, nano_run.told.err, re.MULTILINE), name


def test_every_artifact_is_finished_and_whole(nano_run):
    """All files are as their manifests say, and no half-made leavings are beside them."""
    for stage in STAGES:
        folder = nano_run.folder(stage)
        open_artifact(folder).verify()
        assert not (folder / "work").exists()
        assert not list(folder.rglob("*.tmp"))


def test_latest_points_at_the_run(nano_run):
    """latest.json names every artifact by stage and key."""
    latest = json.loads((nano_run.root / "latest.json").read_text())
    assert {name: place.split("/")[1] for name, place in latest.items()} == nano_run.told.json["artifacts"]


def test_report_needs_nothing_beside_itself(nano_run):
    """One page without a reference to another file or to the network."""
    page = (nano_run.folder("report") / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""<(?:script|link|img|iframe|use)\b[^>]*?(?:src|href)\s*=\s*["']([^"'#][^"']*)""", page)
    assert not [place for place in loaded if not place.startswith("data:")]
    assert "@import" not in page and not re.search(r"url\((?!['\"]?(?:data:|#))", page)
    assert all(name in page for name in EXPERTS)


def test_prefect_has_every_task_run_in_a_final_state(nano_run):
    """One completed flow run, one completed task run per stage, none left running."""
    with sqlite3.connect(f"file:{nano_run.root / '.prefect' / 'prefect.db'}?mode=ro", uri=True) as history:
        tasks = history.execute("select name, state_type from task_run").fetchall()
        flows = history.execute("select state_type from flow_run").fetchall()
    history.close()
    assert flows == [("COMPLETED",)]
    assert {name.removeprefix("pretrain-") for name, _ in tasks} == STAGES
    assert len(tasks) == len(STAGES)
    assert {state for _, state in tasks} <= FINAL


def test_nothing_is_left_and_nothing_listens(nano_run):
    """No process of the run is alive, and the port of its temporary API refuses."""
    assert nano_run.ports, "the temporary API was never seen"
    assert nano_run.left == {}
    for port in nano_run.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_mlflow_has_one_parent_and_one_child_per_expert(mlflow_runs):
    """Exactly one finished child per expert, all of one parent, each from a process of its own."""
    _, runs = mlflow_runs
    parent, children = parent_of(runs), children_of(runs)
    assert {run.data.tags["stage"] for run in children} == set(EXPERTS)
    assert len(children) == len(EXPERTS)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len({run.data.tags["process_id"] for run in children}) == len(EXPERTS)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_experts_train_at_the_same_time(mlflow_runs):
    """The intervals of the three child runs have a moment in common."""
    children = children_of(mlflow_runs[1])
    assert max(run.info.start_time for run in children) < min(run.info.end_time for run in children)


def test_mlflow_has_curves_over_tokens_and_parameters(mlflow_runs, nano_run):
    """Each child's train/loss runs over the tokens of its training; settings and final figures are there."""
    client, runs = mlflow_runs
    for run in children_of(runs):
        history = client.get_metric_history(run.info.run_id, "train/loss")
        tokens = [point.step for point in history]
        assert len(tokens) > 2 and tokens == sorted(tokens)
        name = run.data.tags["stage"]
        training = open_artifact(nano_run.folder(name)).summary["training"]
        assert tokens[-1] == training["tokens"]
        assert history[-1].value == pytest.approx(training["loss"])
        assert run.data.params["kind"] == name
        assert run.data.params["train.tokens"] == "60000"
    parent = parent_of(runs)
    assert parent.data.params["space.width"] == "32"
    assert parent.data.metrics["eval/bits_per_byte"] == pytest.approx(nano_run.told.json["results"]["bits_per_byte"])
    assert {f"key.{stage}" for stage in STAGES} <= parent.data.tags.keys()


def test_mlflow_has_the_report_and_the_tables(mlflow_runs):
    """The page and the result tables as Parquet are artifacts of the parent run."""
    import pandas as pd

    client, runs = mlflow_runs
    parent = parent_of(runs)
    names = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "table.parquet", "documents.parquet", "results.json", "ablation.md"} <= names
    assert parent.data.metrics["ablation/calibrated/dense"] > 0
    assert "ablation/against_dense/mixture" in parent.data.metrics
    table = pd.read_parquet(f"{parent.info.artifact_uri.removeprefix('file://')}/table.parquet")
    assert {"scorer", "domain", "bits_per_byte"} <= set(table.columns) and len(table)


def test_mixture_holds_the_trained_experts_bit_for_bit(nano_run):
    """Experts and token table inside the mixture equal the artifacts that they come from."""
    mixture = load_file(nano_run.folder("router") / "model.safetensors")
    for name in EXPERTS:
        expert = load_file(nano_run.folder(name) / "expert.safetensors")
        mark = f"experts.{name}."
        inside = {key.removeprefix(mark): one for key, one in mixture.items() if key.startswith(mark)}
        assert expert.keys() == inside.keys()
        assert all(raw(tensor) == raw(inside[key]) for key, tensor in expert.items()), name
    table = load_file(nano_run.folder("embedding") / "embedding.safetensors")
    assert raw(mixture["head.table"]) == raw(table["table"])


def raw(tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_declared_parameter_counts_are_those_of_the_tensors(nano_run):
    """The counts in the manifests and in the report are the numbers of elements on the disk."""
    declared = open_artifact(nano_run.folder("router")).summary["parameters"]
    model, _ = load_mixture(nano_run.folder("router"))
    trained = {name for name, _ in model.named_parameters()}
    mixture = load_file(nano_run.folder("router") / "model.safetensors")
    for name in EXPERTS:
        file = load_file(nano_run.folder(name) / "expert.safetensors")
        held = sum(one.numel() for key, one in file.items() if f"experts.{name}.{key}" in trained)
        assert declared[name] == open_artifact(nano_run.folder(name)).summary["parameters"] == held
    # The shared head is frozen; what else is not trained is a member's own bookkeeping.
    counted = {key for key in mixture if key in trained or not key.startswith("experts.")}
    assert declared["whole"] == sum(mixture[key].numel() for key in counted)
    page = (nano_run.folder("report") / "report.html").read_text(encoding="utf-8")
    assert f"{declared['whole']:,}" in page


def test_second_run_makes_nothing_again_and_says_so(nano_run, commands):
    """The same command on the same root: every stage is up to date, the keys are the same, no training starts."""
    arguments = ("run", "--preset", "nano", "--compute.threads", "1", "--json", "--root", nano_run.root)
    before = {path: path.stat().st_mtime_ns for path in nano_run.root.glob("*/*/manifest.json")}
    started = time.monotonic()
    again = commands(*arguments)
    print(f"second run: {time.monotonic() - started:.1f} s")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["artifacts"] == nano_run.told.json["artifacts"]
    for stage, key in told["artifacts"].items():
        assert f"{stage}: up to date ({key})" in again.stderr
    assert "started" not in again.stderr and "done in" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in nano_run.root.glob("*/*/manifest.json")} == before
    assert commands.processes() == {}
