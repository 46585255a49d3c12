"""The pipeline on a cluster of two workers that share the folder of the artifacts."""

import json
import shutil
import subprocess
import sys

import pytest

from nano_think.experts import EXPERTS
from nano_think.stages.artifact import open_artifact
from tests.conftest import PATIENCE, Commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE * 600)]
BEFORE = ("ingest", "tokenizer", "tokens", "embedding")
RUN = """
import json, os, sys
from pathlib import Path
from distributed import LocalCluster, get_task_stream

if __name__ == "__main__":
    root = Path(sys.argv[1])
    from flows.local import temporary_api
    cluster = LocalCluster(n_workers=2, threads_per_worker=4, dashboard_address=None)
    with temporary_api(root) as wait, cluster:
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        from flows.on_dask import full_pipeline_on_dask
        from nano_think.stages.tracking_store import make_store
        make_store(root)
        wait()
        with cluster.get_client() as client, get_task_stream(client) as seen:
            made = full_pipeline_on_dask(preset="nano", overrides={"compute": {"threads": 1}}, root=str(root))
        workers = sorted({task["worker"] for task in seen.data})
    print(json.dumps({"workers": workers, "keys": {name: one.key for name, one in made.items()}}))
"""


@pytest.fixture(scope="module")
def clustered(nano_run, tmp_path_factory):
    """What such a run tells and leaves; everything before the experts was finished already."""
    folder = tmp_path_factory.mktemp("dask")
    for stage in BEFORE:
        place = nano_run.folder(stage)
        shutil.copytree(place, folder / "root" / place.relative_to(nano_run.root))
    script = folder / "on_two_workers.py"
    script.write_text(RUN)
    commands = Commands(folder)
    words, environment = [sys.executable, str(script), str(folder / "root")], commands.environment()
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE * 500
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]), folder / "root", commands.processes()
    finally:
        commands.kill_all()


def test_both_workers_work_and_leave(clustered):
    told, _, left = clustered
    assert len(told["workers"]) == 2
    assert left == {}


def test_artifacts_are_those_of_one_machine(clustered, nano_run):
    """The same keys, and the same digests for all that is trained."""
    told, root, _ = clustered
    assert told["keys"].keys() == nano_run.told.json["artifacts"].keys()
    for name in (*EXPERTS, "dense", "router"):
        (folder,) = root.glob(f"*/{told['keys'][name]}")
        assert open_artifact(folder).digest == open_artifact(nano_run.folder(name)).digest, name


def test_mlflow_hears_of_the_workers_trainings(clustered):
    """One parent and a child for each expert, all finished, with the curves that the workers' children have told."""
    from mlflow.tracking import MlflowClient

    _, root, _ = clustered
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    runs = client.search_runs(["1"])
    assert sorted(run.data.tags["stage"] for run in runs if "stage" in run.data.tags) == sorted(EXPERTS)
    assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 1 + len(EXPERTS)
    child = next(run for run in runs if run.data.tags.get("stage") == "transformer")
    assert len(client.get_metric_history(child.info.run_id, "train/loss")) > 2
