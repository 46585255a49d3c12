"""Slots on devices, as lock files: runs that know nothing of each other do not give a device more than it can hold.

The kernel drops a lock when its holder dies, however it dies, so a slot is never lost.
"""

import contextlib
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from nano_think.core import process
from nano_think.core.device import GPU
from nano_think.core.errors import Interrupted, StorageError, storage

POLL_SECONDS = 0.1
# Slots of a device where nothing else is asked for: one for each of three experts.
USUAL = 3


def shared_folder() -> Path:
    """Where the locks of this machine's devices lie: one place for all runs of a user."""
    return Path(tempfile.gettempdir()) / f"nano_think-slots-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Slots:
    """The devices that trainings of a run share. Without any, a training never waits."""

    folder: Path | None = None
    """Where the locks lie; runs with one folder share its devices."""
    devices: Mapping[str, int | None] = field(default_factory=dict)
    """Name -> memory that a device's slots share (bytes); None where a training takes one slot whatever it needs."""
    each: int = USUAL
    """Slots of each device."""
    together: bool = False
    """Whether a training takes all devices as one, and so every slot of each."""

    @contextlib.contextmanager
    def hold(self, needed: Callable[[], int]) -> Iterator[str | None]:
        """Wait until a device has room for a training that needs so much memory (bytes), hold it for the block, and
        yield the device's name; None without devices. One that needs more than there is gets a device to itself.

        Raises `Interrupted` where the run is being stopped.
        """
        if self.folder is None or not self.devices:
            yield None
            return
        _make_own(self.folder)
        size = needed() if any(self.devices.values()) and not self.together else 0
        with contextlib.ExitStack() as held:
            yield self._wait(size, held)

    def _wait(self, size: int, held: contextlib.ExitStack) -> str | None:
        while not process.stopping():
            if self.together and self._take_all(held):
                return None
            for device, memory in () if self.together else self.devices.items():
                if self._take(device, self.count(size, memory), held):
                    return device
            time.sleep(POLL_SECONDS)
        raise Interrupted(signal.SIGINT)

    def _take_all(self, held: contextlib.ExitStack) -> bool:
        """Lock every slot of every device, or none."""
        with contextlib.ExitStack() as mine:
            if all(self._take(device, self.each, mine) for device in self.devices):
                held.enter_context(mine.pop_all())
                return True
        return False

    def count(self, size: int, memory: int | None) -> int:
        """How many slots of a device a training takes, so that all that are in its slots fit into it together."""
        return min(self.each, max(1, math.ceil(size * self.each / memory))) if memory else 1

    def _take(self, device: str, count: int, held: contextlib.ExitStack) -> bool:
        """Lock `count` slots of a device, or none."""
        assert self.folder
        with contextlib.ExitStack() as mine, filelock.FileLock(self.folder / f"{device}.lock"):
            for slot in range(self.each):
                lock = filelock.FileLock(self.folder / f"{device}-{slot}.lock")
                with contextlib.suppress(filelock.Timeout):
                    lock.acquire(timeout=0)
                    mine.callback(lock.release)
                    count -= 1
                if not count:
                    held.enter_context(mine.pop_all())
                    return True
        return False


def _make_own(folder: Path) -> None:
    """Make the folder, which is ours alone: others could keep us waiting, or lead our locks elsewhere."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise StorageError(f"{folder}: belongs to another user; remove it, or set TMPDIR to a folder of your own")
        folder.chmod(0o700)


def visible(device: str | None, gpus: Iterable[str]) -> dict[str, str]:
    """What a child is told so that it sees that GPU alone, of those that this process sees in the order of `gpus`;
    nothing for other devices.
    """
    names = list(gpus)
    if device not in names or not device.startswith(GPU):
        return {}
    seen, index = os.environ.get("CUDA_VISIBLE_DEVICES"), names.index(device)
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[index] if seen else str(index)}
