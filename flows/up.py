"""`nano-think up` and `nano-think down`: Prefect's server with a worker, and MLflow's pages, in the background."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.dotenv import remove_block, write_block
from flows.services import Services
from flows.stack import FOLDER, STOP_SECONDS, address, api, start_all
from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import LockedError, UsageError
from nano_think.core.files import lock


@dataclass(frozen=True, kw_only=True)
class UpArguments:
    """Start what is not running, wait until it answers, and register the deployments of prefect.yaml.

    Then `prefect deployment run full-pipeline` works in any shell in this folder. All of it listens on this machine's
    loopback alone and tells nobody; logs are in artifacts/.services/.
    """

    prefect_port: int = 4200
    """Port of Prefect's server (TCP)."""
    mlflow_port: int = 5000
    """Port of MLflow's pages (TCP)."""

    def __post_init__(self) -> None:
        if not all(0 < port < 65536 for port in (self.prefect_port, self.mlflow_port)):
            raise ValueError("wanted ports from 1 to 65535")
        if self.prefect_port == self.mlflow_port:
            raise ValueError(f"wanted two different ports, got {self.prefect_port} twice")


@dataclass(frozen=True, kw_only=True)
class DownArguments:
    """Stop what `up` has started, and take its block out of .env. A run under way saves its work first."""


def up(arguments: list[str]) -> int:
    """`nano-think up`."""
    wanted = parse_arguments(UpArguments, "up", arguments)
    if not Path("prefect.yaml").is_file():
        raise UsageError("no prefect.yaml in this folder: up works in a checkout of nano_think; change into it first")
    ports = {"prefect": wanted.prefect_port, "mlflow": wanted.mlflow_port}
    with _held():
        services = Services.open(FOLDER)
        _clear(services)
        _check_ports(services, ports)
        with _all_or_nothing(services):
            start_all(services, ports)
        write_block(Path(".env"), {"PREFECT_API_URL": api(ports["prefect"])})
    _tell(ports)
    return 0


def down(arguments: list[str]) -> int:
    """`nano-think down`."""
    parse_arguments(DownArguments, "down", arguments)
    with _held():
        services = Services.open(FOLDER)
        running = [name for name in STOP_SECONDS if services.processes(name)]
        for name in STOP_SECONDS:
            services.stop(name, STOP_SECONDS[name])
        remove_block(Path(".env"))
    print(f"stopped: {', '.join(running)}" if running else "nothing was up")
    return 0


@contextlib.contextmanager
def _held() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(FOLDER / "lock", "services"))
        except LockedError:
            raise LockedError("another up or down is under way in this folder; wait for it to end") from None
        yield


def _clear(services: Services) -> None:
    """Say what has become of an earlier `up`, and end what is left of services whose own process is gone."""
    dead = [name for name in services.known if not services.alive(name)]
    if dead and len(dead) == len(services.known):
        _note("what was up is gone: it was killed, or the machine was started anew; starting again")
    elif dead:
        _note(f"{', '.join(dead)} had ended (see {FOLDER}); starting again")
    elif services.known:
        _note("up already; the deployments are registered again")
    for name in dead:
        services.stop(name, STOP_SECONDS[name])


def _check_ports(services: Services, ports: dict[str, int]) -> None:
    """Refuse before anything is started: a port that another program has, or a second one for what is running."""
    for name, port in ports.items():
        if services.alive(name):
            known = services.known[name]["port"]
            if known != port:
                raise UsageError(f"{name} is up on port {known}, wanted {port}; say nano-think down first")
        elif _taken(port):
            raise UsageError(f"port {port} is taken by another program; choose one for {name} with --{name}-port")


def _taken(port: int) -> bool:
    """As the servers ask: a port whose last connections are still being forgotten is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _all_or_nothing(services: Services) -> Iterator[None]:
    """If the block fails, or is interrupted, what it has started is stopped."""
    before = set(services.known)
    try:
        yield
    except BaseException:
        for name in STOP_SECONDS.keys() - before:
            services.stop(name, STOP_SECONDS[name])
        raise


def _tell(ports: dict[str, int]) -> None:
    print(f"Prefect  {address(ports['prefect'])}")
    print(f"MLflow   {address(ports['mlflow'])}")
    print("run      prefect deployment run full-pipeline -p preset=nano")
    print("stop     nano-think down")
    if os.environ.get("PREFECT_API_URL", api(ports["prefect"])) != api(ports["prefect"]):
        _note("PREFECT_API_URL is set in this shell: Prefect's own commands go there instead")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
