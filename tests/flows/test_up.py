"""From a fresh clone: up, the literal command in a bare shell, its end in both histories, nothing left after down."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.experts import EXPERTS
from tests.checkout import addresses, bare, free_port, post, wait_for
from tests.conftest import Commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LOOPBACK = "0100007F"
# A folder to keep the pictures in: the documents show such ones.
PICTURES = os.environ.get("NANO_THINK_PICTURES")


@pytest.fixture(scope="module")
def told(checkout):
    """What `up` says."""
    return checkout.up()


@pytest.fixture(scope="module")
def run(checkout, told):
    """A run that was started by the literal command, and has ended."""
    said = checkout.shell("prefect", "deployment", "run", "full-pipeline", "-p", "preset=nano")
    assert "full-pipeline/full-pipeline" in said
    wait_for(lambda: checkout.runs()[0]["end_time"], 400, every=1)
    return checkout.runs()[0]


def mlflow_runs(port):
    """Name and status of the runs that MLflow's own API tells."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search"
    found = post(url, {"experiment_ids": ["1"], "max_results": 100})["runs"]
    return sorted((run["info"]["run_name"], run["info"]["status"]) for run in found)


def test_up_is_light_and_on_the_loopback_alone(checkout, told):
    """Four processes, two addresses; the file for Prefect is the owner's alone."""
    assert told.returncode == 0, told.stderr
    assert all(f"http://127.0.0.1:{port}" in told.stdout for port in checkout.ports.values())
    processes = checkout.commands.processes()
    assert len(processes) == 4, processes
    assert (checkout.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert all(addresses(port) == {LOOPBACK} for port in checkout.ports.values())


def test_up_again_says_so_and_starts_nothing(checkout, told):
    before = checkout.commands.processes()
    again = checkout.up()
    assert again.returncode == 0 and "up already" in again.stderr
    assert again.stdout == told.stdout
    assert checkout.commands.processes() == before


def test_form_has_typed_parameters(checkout, told):
    """Preset and settings with their words and units; what does not fit is refused when the run is asked for."""
    (deployment,) = [one for one in checkout.ask("deployments/filter") if one["name"] == "full-pipeline"]
    parameters = deployment["parameter_openapi_schema"]["properties"]
    assert set(parameters["preset"]["enum"]) == {"nano", "micro", "seed"}
    tokens = parameters["overrides"]["properties"]["pretrain"]["properties"]["tokens"]
    assert tokens == {"type": "integer", "title": "Tokens", "description": "Training budget (tokens)."}
    with pytest.raises(AssertionError, match="'nanno' is not one of"):
        checkout.shell("prefect", "deployment", "run", "full-pipeline", "-p", "preset=nanno")


def test_schedule_is_registered_and_sleeps(checkout, told):
    """The example in prefect.yaml: every night, once somebody says so."""
    (deployment,) = [one for one in checkout.ask("deployments/filter") if one["name"] == "full-pipeline"]
    (schedule,) = deployment["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 * * *", False)
    assert schedule["parameters"] == {"preset": "micro"}
    assert {one["name"] for one in checkout.ask("deployments/filter") if one["schedules"]} == {"full-pipeline"}


def test_literal_command_runs_to_its_end(checkout, run):
    """Completed in Prefect's API, every stage with it; the worker says nothing of errors."""
    log = (checkout.folder / "artifacts" / ".services" / "worker.log").read_text()
    assert (run["name"], run["state_type"]) == ("nano", "COMPLETED"), log
    tasks = checkout.tasks(run["id"])
    assert set(tasks.values()) == {"COMPLETED"} and len(tasks) == 10 + len(EXPERTS)
    assert "Traceback" not in log and "Failed to" not in log
    print(f"deployed nano run: {run['total_run_time']:.0f} s")


def test_run_page_has_card_bars_and_tables(checkout, run):
    """What an expert's page shows, and what the whole run's does; nothing in the card is a picture of a table."""
    artifacts = checkout.artifacts(run["id"])
    assert {f"progress-{name.replace('_', '-')}" for name in (*EXPERTS, "dense", "router")} <= artifacts.keys()
    assert artifacts["progress-transformer"] == 100
    card = artifacts["run-card"]
    assert card.startswith("# nano\n\nMixture **") and not re.search(r"^    ", card.split("```")[0], re.MULTILINE)
    assert f"http://127.0.0.1:{checkout.ports['mlflow']}/#/experiments/1/runs/" in card
    assert {"bits-per-byte", "ablation"} <= artifacts.keys()
    logs = checkout.ask("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
    assert any("router: done in" in line["message"] for line in logs)


def test_mlflow_has_the_runs_and_so_has_a_bare_mlflow_ui(checkout, run, tmp_path):
    """The server of `up`, and `mlflow ui` without a word more in the checkout."""
    wanted = sorted((name, "FINISHED") for name in ("nano", *EXPERTS))
    assert mlflow_runs(checkout.ports["mlflow"]) == wanted
    port = free_port()
    clone = Commands(checkout.folder, code=checkout.folder)
    log = (tmp_path / "log").open("w")
    words = [sys.executable, "-m", "mlflow", "ui", "--port", str(port)]
    # Its default starts a dozen spare processes, which say nothing about the runs.
    environment = bare(clone) | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    pages = subprocess.Popen(words, cwd=checkout.folder, stdout=log, stderr=log, env=environment)
    try:
        wait_for(lambda: answers(lambda: mlflow_runs(port)), 120, every=0.5)
        assert mlflow_runs(port) == wanted
    finally:
        clone.kill_all()
        pages.wait()
        log.close()


def answers(question):
    try:
        return question()
    except OSError:
        return None


@pytest.mark.parametrize("page", ["prefect", "mlflow"])
def test_pages_can_be_looked_at(checkout, run, tmp_path, page):
    """In a real browser: the page draws more than one colour; `docs/images` keeps such pictures."""
    import matplotlib.image

    places = {"prefect": f"/runs/flow-run/{run['id']}", "mlflow": "/#/experiments/1/runs?workflowType=machine_learning"}
    url, picture = f"http://127.0.0.1:{checkout.ports[page]}{places[page]}", tmp_path / f"{page}.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,720"]
    words += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", url]
    subprocess.run(["chromium", *words], check=True, capture_output=True, timeout=600)
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (720, 1280)
    assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2])}) > 50
    if PICTURES:
        shutil.copy(picture, Path(PICTURES) / f"{page}.png")


def test_the_chat_pipeline_runs_as_well(checkout, run):
    """From the same bare shell: every stage completed, and a chat model that is the newest one."""
    checkout.shell("prefect", "deployment", "run", "chat-pipeline/chat-pipeline", "-p", "preset=chat-nano")

    def ended():
        """The run, which bears the preset's name from its first moment on the worker, once it is over."""
        return next((one for one in checkout.runs() if one["name"] == "chat-nano" and one["end_time"]), None)

    chat = wait_for(ended, 400, every=1)
    assert chat["state_type"] == "COMPLETED"
    assert set(checkout.tasks(chat["id"]).values()) == {"COMPLETED"}
    assert (checkout.folder / "artifacts" / "chat-latest.json").is_file()


def test_down_leaves_nothing(checkout, run):
    """No process, no port, no block; a second time there is nothing to do."""
    told = checkout.down()
    assert told.returncode == 0 and told.stdout == "stopped: worker, mlflow, prefect\n", told.stderr
    assert checkout.commands.processes() == {}
    assert not (checkout.folder / ".env").exists()
    assert not any(addresses(port) for port in checkout.ports.values())
    assert checkout.down().stdout == "nothing was up\n"
