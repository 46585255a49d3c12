"""A checkout of its own with services that `nano-think up` has started: seen from outside, as a user sees them."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.conftest import PATIENCE, Commands

ROOT = Path(__file__).parents[1]


def copy_checkout(folder: Path) -> Path:
    """What git holds, or would hold, of this checkout, as a fresh clone has it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@dataclass
class Checkout:
    """A fresh clone, and what its servers say."""

    folder: Path
    ports: dict[str, int]
    commands: Commands = field(init=False)

    def __post_init__(self) -> None:
        self.commands = Commands(self.folder, code=self.folder)

    def up(self) -> subprocess.CompletedProcess[str]:
        """`nano-think up`: what it starts goes on, and is found by the mark of `commands`."""
        flags = [f"--{name}-port={port}" for name, port in self.ports.items()]
        process = self.commands.start("up", *flags)
        out, err = process.communicate(timeout=PATIENCE * 250)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def down(self) -> subprocess.CompletedProcess[str]:
        process = self.commands.start("down")
        out, err = process.communicate(timeout=PATIENCE * 100)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def shell(self, program: str, *words: str) -> str:
        """A program of the environment in a shell of a user's who has set nothing of Prefect's or MLflow's."""
        command = [str(Path(sys.executable).parent / program), *words]
        done = subprocess.run(command, cwd=self.folder, env=bare(self.commands), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, what: str, **question: Any) -> Any:
        """Prefect's API, as in `ask("flow_runs/filter", limit=1)`."""
        api = f"http://127.0.0.1:{self.ports['prefect']}/api"
        with urllib.request.urlopen(f"{api}/csrf-token?client=tests", timeout=60) as answer:
            token = json.load(answer)["token"]
        return post(f"{api}/{what}", question, {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"})

    def runs(self) -> list[dict[str, Any]]:
        """Prefect's flow runs, the newest first."""
        return self.ask("flow_runs/filter", sort="EXPECTED_START_TIME_DESC")

    def tasks(self, run: str) -> dict[str, str]:
        """Name and type of the state of the task runs of a flow run."""
        found = self.ask("task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {task["name"]: task["state_type"] for task in found}

    def artifacts(self, run: str) -> dict[str, Any]:
        """Key and data of Prefect's artifacts of a flow run."""
        found = self.ask("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}


def bare(commands: Commands) -> dict[str, str]:
    """The environment of a shell in which nothing of Prefect's or MLflow's is set."""
    everything = commands.environment()
    return {name: value for name, value in everything.items() if not name.startswith(("PREFECT", "MLFLOW"))}


def post(url: str, question: dict[str, Any], headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    body = json.dumps(question).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], Any], seconds: float = 200, every: float = 0.1) -> Any:
    """What the condition gives, once it is true."""
    deadline = time.monotonic() + PATIENCE * seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    assert found
    return found


def addresses(port: int) -> set[str]:
    """The addresses at which anything listens on a port, as the kernel writes them: 0100007F is the loopback."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [words[1].partition(":") for words in lines if words[3] == "0A"]
    return {address for address, _, number in listening if int(number, 16) == port}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
