"""What holds for every test: no network, no telemetry, torch left as it was, and fresh memory that holds NaN."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Set before any test module is imported, and inherited by every child process.
os.environ |= {
    "DO_NOT_TRACK": "true",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

THREADS = 2
# Where a machine has much else to do: how many times longer than usual is waited.
PATIENCE = float(os.environ.get("NANO_THINK_PATIENCE", "3"))


@pytest.fixture(autouse=True)
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where torch is in use: the same seed and threads for every test, poisoned empties, and its switches put back."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    poison(torch, monkeypatch)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    matmul = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.mkldnn.matmul.fp32_precision = matmul


def poison(torch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.empty and its kin return NaN, so that reading what was never written shows at once."""

    def poisoned(make):
        def empty(*args, **kwargs):
            made = make(*args, **kwargs)
            with torch.no_grad():
                return made.fill_(float("nan")) if made.is_floating_point() else made

        return empty

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def refuse_skip(report) -> None:
    """Turn a skip into a failure where NANO_THINK_NO_SKIP=1: in CI a test that did not run has not passed."""
    if os.environ.get("NANO_THINK_NO_SKIP") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(NANO_THINK_NO_SKIP=1: a skipped test counts as a failure)"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    refuse_skip(report)
    return report


@dataclass
class Commands:
    """Runs the real `nano-think`, in `folder`, and finds every process that came of it by a mark in its environment."""

    folder: Path
    code: Path | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """The command under way, in a session of its own, with pipes for what it says."""
        command = [sys.executable, "-m", "nano_think", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), start_new_session=True, **pipes)

    def environment(self) -> dict[str, str]:
        """That of the tests, the mark, and `code` before all other places that modules come from."""
        path = os.pathsep.join(filter(None, [str(self.code), os.environ.get("PYTHONPATH")]))
        return os.environ | {"NANO_THINK_MARK": self.mark} | ({"PYTHONPATH": path} if self.code else {})

    def __call__(self, *arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """The command, run to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=PATIENCE * timeout)
        finally:
            self.kill_all()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> dict[int, str]:
        """Process id -> command line of what is still alive; a zombie is not."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = f"NANO_THINK_MARK={self.mark}".encode() in (place / "environ").read_bytes()
                if marked and (words := (place / "cmdline").read_bytes()):
                    found[int(place.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        return found

    def gone(self, seconds: float) -> bool:
        """Whether no process is left, at the latest after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.processes()

    def kill_all(self) -> None:
        """Leave nothing behind, whatever a test has found."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """The real command line, in a folder of the test's own; nothing of it outlives the test."""
    command = Commands(tmp_path)
    yield command
    command.kill_all()


@dataclass(frozen=True)
class Told:
    """What a command said and the code it left with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on the last line of the output."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Iterator[Callable[..., Told]]:
    """The command line inside this process: `say("eval", "--data", path)`; quicker than a process of its own."""
    from nano_think.cli.main import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["nano-think", *map(str, arguments)])
        capfd.readouterr()
        try:
            code = main()
        except SystemExit as end:
            code = end.code or 0
        return Told(code, *capfd.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class NanoRun:
    """A finished `nano-think run --preset nano`, and what was seen of it from outside."""

    root: Path
    told: Told
    left: dict[int, str]
    ports: set[int]
    seconds: float

    def folder(self, stage: str) -> Path:
        """The artifact of a stage, or of the expert of that name."""
        found = [path for path in self.root.glob(f"*/{self.told.json['artifacts'][stage]}") if path.is_dir()]
        assert len(found) == 1, (stage, found)
        return found[0]


# One thread: on a shared machine two of them wait for each other more than they compute.
NANO = ("run", "--preset", "nano", "--compute.threads", "1", "--json")


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> NanoRun:
    """One real run of the nano preset in a fresh root, shared by all tests that only look at it."""
    folder = tmp_path_factory.mktemp("nano")
    command, started, ports = Commands(folder), time.monotonic(), set()
    process = command.start(*NANO, "--root", folder / "root")
    with contextlib.suppress(subprocess.TimeoutExpired):
        while process.poll() is None and not ports:
            ports = listening(command.processes())
            time.sleep(1)
    try:
        out, err = process.communicate(timeout=PATIENCE * 200)
        return NanoRun(
            root=folder / "root", told=Told(process.returncode, out, err), left=command.processes(), ports=ports,
            seconds=time.monotonic() - started,
        )  # fmt: skip
    finally:
        command.kill_all()


def listening(processes: dict[int, str]) -> set[int]:
    """The TCP ports on which any of these processes listens."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            sockets |= {str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()}
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports
