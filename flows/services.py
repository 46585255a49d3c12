"""Programs that outlive the command that starts them: each in a session of its own, known again by a mark in its
environment, which all that comes of it inherits. A number of a process says nothing after a restart of the machine;
the mark does, and it finds what was left by a service that was killed.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_think.core.errors import storage
from nano_think.core.files import read_json, write_json

MARK = "NANO_THINK_SERVICE"
STATE = "services.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A program to run in the background."""

    name: str
    """What it is called in messages, and its log file."""
    command: list[str]
    """Words of its command line."""
    environment: Mapping[str, str]
    """All of its environment but the mark."""
    port: int = 0
    """Port of the loopback that it listens on; 0 if it does not."""


@dataclass
class Services:
    """What is running, and where that is written down: FOLDER/services.json, beside the logs."""

    folder: Path
    mark: str = ""
    known: dict[str, dict[str, int]] = field(default_factory=dict)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> "Services":
        """What the last `up` has written down; nothing where there is none."""
        if not (folder / STATE).is_file():
            return cls(folder, mark=os.urandom(8).hex())
        state: dict[str, Any] = read_json(folder / STATE)
        return cls(folder, state["mark"], state["services"])

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def processes(self, name: str = "") -> dict[int, int]:
        """Process -> its parent, of all that came of one service, or of any."""
        wanted = f"{MARK}={self.mark}:{name}".encode()
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marks = [one for one in (place / "environ").read_bytes().split(b"\0") if one.startswith(wanted)]
                status = (place / "stat").read_text().rpartition(")")[2].split()
                if marks and status[0] != "Z":
                    found[int(place.name)] = int(status[1])
        return found

    def alive(self, name: str) -> bool:
        """Whether the service's own process is there."""
        return name in self.known and self.known[name]["process"] in self.processes(name)

    def start(self, service: Service, folder: Path) -> None:
        """Start a service in `folder` and write it down at once: whatever happens next, `stop` will find it."""
        environment = {**service.environment, MARK: f"{self.mark}:{service.name}"}
        with storage(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            log = self.log(service.name).open("wb")
        with log:
            process = subprocess.Popen(
                service.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self._children.append(process)
        self.known[service.name] = {"process": process.pid, "port": service.port}
        self._save()

    def stop(self, name: str, seconds: float) -> None:
        """End a service and all that came of it; what is still there after so many seconds is killed.

        Only the service and what it has itself started are asked: those end their own children, which must not be
        asked twice.
        """
        processes = self.processes(name)
        main = self.known.get(name, {}).get("process", 0)
        send(signal.SIGTERM, [one for one, parent in processes.items() if parent == main or parent not in processes])
        deadline = time.monotonic() + seconds
        while self.processes(name) and time.monotonic() < deadline:
            time.sleep(0.05)
        while processes := self.processes(name):
            send(signal.SIGKILL, processes)
            time.sleep(0.05)
        for child in self._children:
            child.poll()
        if self.known.pop(name, None):
            self._save()

    def _save(self) -> None:
        if self.known:
            write_json(self.folder / STATE, {"mark": self.mark, "services": self.known})
        else:
            (self.folder / STATE).unlink(missing_ok=True)


def send(signum: int, processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signum)
