"""What `nano-think up` starts: Prefect's server, MLflow's pages and a worker; which of them needs which, and when each
is ready. Two processes for MLflow, one each for the others; nothing listens beyond the loopback.
"""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.history import close_all_dead_runs, history_client
from flows.services import Service, Services
from flows.settings import guarded, own_environment, quiet_settings
from nano_think.core.errors import ChildError, LockedError
from nano_think.stages.tracking import end_dead_runs
from nano_think.stages.tracking_store import make_store

ROOT, POOL, WORKER = Path("artifacts"), "local", "nano-think"
FOLDER = ROOT / ".services"
START_SECONDS, POLL_SECONDS = 300.0, 0.1
# In the order of stopping. A run on the worker saves what its experts have learnt before it leaves.
STOP_SECONDS = {"worker": 20.0, "mlflow": 5.0, "prefect": 10.0}


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def api(port: int) -> str:
    """The address of Prefect's API."""
    return f"{address(port)}/api"


def running_api() -> str | None:
    """The address of the server that `up` has started in this folder, if it answers."""
    services = Services.open(FOLDER)
    if not services.alive("prefect"):
        return None
    port = services.known["prefect"]["port"]
    return api(port) if _answers(f"{api(port)}/health") else None


def mlflow_page(experiment: str, run: str) -> str | None:
    """The address of a run's page, if `up` has MLflow's pages running in this folder."""
    services = Services.open(FOLDER)
    if not services.alive("mlflow"):
        return None
    place = f"experiments/{experiment}/runs/{run}?workflowType=machine_learning"
    return f"{address(services.known['mlflow']['port'])}/#/{place}"


def start_all(services: Services, ports: dict[str, int]) -> None:
    """Start what is not running, in an order in which each finds what it needs, and wait until all of it answers."""
    environment = _environment(ports["prefect"])
    _start(services, _prefect(ports["prefect"], environment))
    # Meanwhile: MLflow's pages must not be the first to touch the store, which two makers at once destroy.
    _, store, _ = make_store(ROOT)
    _start(services, _mlflow(ports["mlflow"], store, environment))
    _wait(services, "prefect", lambda: _answers(f"{api(ports['prefect'])}/health"))
    os.environ |= environment
    if not services.alive("worker"):
        _end_dead_runs()
        begun = datetime.now(UTC)
        _start(services, _worker(environment))
        _wait(services, "worker", lambda: _seen_since(begun))
    _register(environment)
    _wait(services, "mlflow", lambda: _answers(f"{address(ports['mlflow'])}/health"))


def _end_dead_runs() -> None:
    """Close what was killed, in Prefect and in MLflow; a run in a terminal that holds its root lives."""
    from nano_think.stages.session import hold

    for root in {*close_all_dead_runs(), ROOT}:
        with contextlib.suppress(LockedError), hold(root):
            end_dead_runs(root)


def _environment(port: int) -> dict[str, str]:
    """For all of them. Prefect must not install anything by itself, and finds our Python first."""
    return {
        **own_environment(),
        **quiet_settings(ROOT),
        **guarded(port),
        "PREFECT_API_URL": api(port),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _prefect(port: int, environment: dict[str, str]) -> Service:
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return Service(name="prefect", command=_python("prefect", *words), environment=environment, port=port)


def _mlflow(port: int, store: str, environment: dict[str, str]) -> Service:
    words = ["ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    return Service(name="mlflow", command=_python("mlflow", *words), environment=environment, port=port)


def _worker(environment: dict[str, str]) -> Service:
    """One run at a time, since each uses the whole machine: further ones wait. What it logs is on the runs' pages."""
    words = ["worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER, "--limit", "1"]
    logging = {"PREFECT_LOGGING_LEVEL": "INFO"}
    return Service(name="worker", command=_python("prefect", *words), environment=environment | logging)


def _python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


def _start(services: Services, service: Service) -> None:
    if not services.alive(service.name):
        services.start(service, Path.cwd())


def _wait(services: Services, name: str, ready: Callable[[], bool]) -> None:
    """Until the service is ready; `ChildError` if it ends or takes far too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if not services.alive(name) or time.monotonic() > deadline:
            log = services.log(name)
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise ChildError(f"{name} did not start: {said[:200]} (more in {log})")
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


def _seen_since(begun: datetime) -> bool:
    """Whether the worker has reported to the server since then."""
    with contextlib.suppress(Exception), history_client() as client:
        beats = [one.last_heartbeat_time for one in client.read_workers_for_work_pool(POOL) if one.name == WORKER]
        return any(beat > begun for beat in beats if beat)
    return False


def _register(environment: dict[str, str]) -> None:
    """Make the deployments of prefect.yaml known to the server, as they are now."""
    command = _python("prefect", "--no-prompt", "deploy", "--all")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ChildError(f"the deployments of prefect.yaml cannot be registered: {' '.join(said[-3:])}")
