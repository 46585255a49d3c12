"""A stage: configuration + named input artifacts -> one artifact, keyed by everything that it depends on."""

import contextlib
import dataclasses
import platform
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nano_think import __version__
from nano_think.core.config import Config, to_dict
from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import digest, lock
from nano_think.core.progress import Progress, Quiet
from nano_think.core.slots import Slots
from nano_think.stages.artifact import MANIFEST, Artifact, discard, open_artifact, seal
from nano_think.stages.modules import Told, check_modules, digest_modules, read_modules
from nano_think.stages.tracking import NoTracker, Tracker

Inputs = Mapping[str, Artifact]
WORK, AGAIN = "work", ".again"
# What a process that was stopped may still take to save its work and leave.
LEAVE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Context:
    """What a stage may use beside its configuration and inputs: where to tell people and MLflow what is going on, which
    stages are made though they are there, and, as the run goes on, which of them had nothing to do; the devices that
    its trainings share, and the code that it began with, by module (`load_modules`; without it nobody checks).
    """

    progress: Progress = dataclasses.field(default_factory=Quiet)
    tracker: Tracker = dataclasses.field(default_factory=NoTracker)
    force: frozenset[str] = frozenset()
    fresh: set[str] = dataclasses.field(default_factory=set)
    slots: Slots = Slots()
    modules: Mapping[str, Told] = dataclasses.field(default_factory=dict)


def making(path: Path, name: str, by: str = "stage") -> contextlib.AbstractContextManager[None]:
    """For the block, be the only one who makes the artifact in `path`; `LockedError` where another goes on with it. A
    stage and the process of its training have locks of their own: the one may be killed and the other still save.
    """
    return lock(path / WORK / f".{by}.lock", f"{name} ('{path}')", wait=LEAVE_SECONDS)


class Stage(ABC):
    """One kind of work. Subclasses name themselves, and build an artifact's files from their inputs.

    The key is a hash of the stage's name, its configuration, the digests of its inputs, a fingerprint of what it reads
    from outside, and a digest of the modules that it uses. The same key is returned, not rebuilt.
    """

    name: str

    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        """Make the artifact's files in `out` and return its summary. `out / "work"` survives a crash, not the end."""

    @property
    def kind(self) -> str:
        """The folder that the stage's artifacts lie in."""
        return self.name

    def fingerprint(self) -> Any:
        """What the result depends on beside configuration, inputs and code: plain JSON."""
        return None

    def modules(self) -> list[str]:
        """The modules whose meaning the result depends on, with all that they import."""
        return [type(self).__module__]

    def key(self, inputs: Inputs) -> str:
        parts = {
            "stage": self.kind,
            "config": to_dict(self.config),
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "fingerprint": self.fingerprint(),
            "modules": digest_modules(*self.modules()),
        }
        return digest(parts)[:16]

    def place(self, root: Path, inputs: Inputs) -> Path:
        """The folder of the artifact that would be made of these inputs, whether it is there or not."""
        return root / self.kind / self.key(inputs)

    def run(self, root: Path, inputs: Inputs, context: Context | None = None) -> Artifact:
        """The finished artifact of this key, after making it if there is none, if it is damaged or if that is asked
        for.
        """
        context = context or Context()
        if context.modules:
            check_modules({name: context.modules.get(name, ("", "")) for name in read_modules(*self.modules())})
        path = self.place(root, inputs)
        self._settle(root, path)
        if self.name in context.force and (path / MANIFEST).is_file():
            return self._make_again(root, path, inputs, context)
        if (path / MANIFEST).is_file():
            try:
                found = open_artifact(path).verify()
                context.fresh.add(self.name)
                context.progress.fresh(self.name, found.key)
                return found
            except ArtifactError as error:
                context.progress.note(f"{self.name}: made again: {error}")
                discard(path)
        return self._make(path, inputs, context)

    def again(self, root: Path, path: Path) -> Path:
        """Where an artifact that is finished is made once more."""
        return root / AGAIN / self.kind / path.name

    def _make_again(self, root: Path, path: Path, inputs: Inputs, context: Context) -> Artifact:
        """The old one stays until the new one is finished; a run that was stopped goes on with the new one."""
        made = self._make(self.again(root, path), inputs, context)
        self._settle(root, path)
        return dataclasses.replace(made, path=path)

    def _settle(self, root: Path, path: Path) -> None:
        """Put what was made once more in its place, also after a crash in the midst of that."""
        again = self.again(root, path)
        old = again.with_name(f"{again.name}.old")
        with storage(path):
            if (again / MANIFEST).is_file():
                if path.is_dir():
                    shutil.rmtree(old, ignore_errors=True)
                    path.rename(old)
                again.rename(path)
        if path.is_dir():
            shutil.rmtree(old, ignore_errors=True)

    def _make(self, path: Path, inputs: Inputs, context: Context) -> Artifact:
        """Build and seal, alone: on a cluster a run that was cancelled may still be at it on another machine."""
        for name, artifact in inputs.items():
            assert artifact.path.is_dir(), f"{self.name}: its input {name} is gone"
        with storage(path), making(path, self.name):
            if (path / MANIFEST).is_file():
                shutil.rmtree(path / WORK, ignore_errors=True)
                return open_artifact(path).verify()
            return self._build_and_seal(path, inputs, context)

    def _build_and_seal(self, path: Path, inputs: Inputs, context: Context) -> Artifact:
        context.progress.start(self.name)
        started = time.monotonic()
        with storage(path):
            summary = self.build(inputs, path, context)
            seconds = time.monotonic() - started
            artifact = seal(path, self.kind, path.name, self._about(inputs, summary, seconds), leave_out=WORK)
            # Not before: until the manifest is written, the checkpoints are all that there is.
            shutil.rmtree(path / WORK, ignore_errors=True)
        context.progress.done(self.name, seconds)
        return artifact

    def _about(self, inputs: Inputs, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {
            "config": to_dict(self.config),
            "inputs": {name: artifact.reference() for name, artifact in inputs.items()},
            "fingerprint": self.fingerprint(),
            "modules": read_modules(*self.modules()),
            "summary": summary,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": {"nano_think": __version__, "python": platform.python_version(), "machine": platform.machine()},
        }
