"""`nano-think doctor`: what a run needs, looked at before it needs it."""

import json
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import size
from nano_think.core.errors import LockedError, NanoThinkError
from nano_think.core.files import lock

PACKAGE = "nano_think"
PORTS = {4200: "Prefect", 5000: "MLflow"}
# Less than this and a run of the default preset may not end well (bytes).
LITTLE = 2 * 10**9
UNWELL = 2


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Versions, ports, disk, devices, compiler. The exit code is 0 if nothing is wrong, and 2 otherwise."""

    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found."""

    what: str
    state: Literal["ok", "note", "wrong"]
    told: str


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(DoctorArguments, "doctor", arguments)
    found = [*_versions(), *_ports(), *_root(wanted.root), *_devices()]
    if wanted.json:
        print(json.dumps({"findings": [asdict(one) for one in found]}))
    else:
        for one in found:
            print(f"{one.state:<6} {one.what:<10} {one.told}")
    return UNWELL if any(one.state == "wrong" for one in found) else 0


def _versions() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    try:
        wanted = [Requirement(one) for one in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Finding("packages", "note", "nano_think itself is not installed: nothing to compare versions with")
        return
    wrong = 0
    for one in wanted:
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        there = _version(one.name)
        if there is None or not one.specifier.contains(there, prereleases=True):
            wrong += 1
            remedy = "install with: pip install -c constraints.txt -e ."
            yield Finding("packages", "wrong", f"{one.name}: wanted {one.specifier}, got {there or 'none'}; {remedy}")
    if not wrong:
        yield Finding("packages", "ok", "all are of the versions that are wanted")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ports() -> Iterator[Finding]:
    for port, what in PORTS.items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        told = f"{port} is in use, by {what} or another program" if taken else f"{port} is free for {what}"
        yield Finding("port", "note" if taken else "ok", told)


def _root(root: Path) -> Iterator[Finding]:
    place = next(one for one in (root.resolve(), *root.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    yield Finding("disk", "ok" if free > LITTLE else "wrong", f"{size(free)} free for '{root}'")
    if root.is_dir():
        try:
            with lock(root / ".lock", f"artifact root '{root}'"):
                yield Finding("root", "ok", f"'{root}' can be written, and no run holds it")
        except LockedError as error:
            yield Finding("root", "note", str(error))
        except NanoThinkError as error:
            yield Finding("root", "wrong", str(error))


def _devices() -> Iterator[Finding]:
    from nano_think.core.device import ComputeConfig, gpu_memory, pick_device, set_up
    from nano_think.nn.native import kernels
    from nano_think.training.machine import free_memory

    device = pick_device("auto")
    chosen = set_up(ComputeConfig(), device)
    yield Finding("device", "ok", ", ".join(f"{name} {value}" for name, value in chosen.items()))
    for name, memory in gpu_memory().items():
        yield Finding("device", "ok", f"{name}: {size(memory)}")
    free = free_memory(device)
    yield Finding("memory", "ok" if free else "note", f"{size(free)} free" if free else "nobody says how much is free")
    found = kernels()
    yield Finding("compiler", "ok" if found.there else "note", found.reason)
