"""Why an artifact is not what a stage would make now: what its key is made of, compared part by part, by name."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nano_think.core.config import to_dict
from nano_think.stages.artifact import Artifact
from nano_think.stages.modules import read_modules
from nano_think.stages.stage import Stage

SHOWN = 40


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing by which two artifacts, or an artifact and what is wanted, differ."""

    kind: Literal["config", "input", "outside", "module", "waits", "damaged", "begun", "forced", "new"]
    name: str
    was: Any = None
    now: Any = None

    def __str__(self) -> str:
        told = {
            "config": f"{self.name} {_short(self.was)} -> {_short(self.now)}",
            "input": f"input {self.name} {_short(self.was)} -> {_short(self.now)}",
            "outside": f"{self.name} {_short(self.was)} -> {_short(self.now)}",
            "module": f"code of {self.name}",
            "waits": f"{self.name} is to be made first",
            "damaged": f"damaged: {self.name}",
            "begun": self.name,
            "forced": "--force",
            "new": "never made here",
        }
        return told[self.kind]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def differences(
    stage: Stage, inputs: Mapping[str, Artifact], manifest: Mapping[str, Any], waits: Collection[str] = ()
) -> list[Reason]:
    """What `stage` over `inputs` would not share with the artifact of that manifest; the inputs that are to be made
    first, `waits`, are not compared.
    """
    told = manifest.get("modules")
    # Artifacts of before kept one digest of all their modules: nothing can be said of a single one.
    before = told if isinstance(told, dict) else {}
    code = read_modules(*stage.modules()) if before else {}
    was = {name: reference["digest"][:12] for name, reference in manifest.get("inputs", {}).items()}
    now = {name: artifact.digest[:12] for name, artifact in inputs.items()}
    return [
        *_changed("config", dict(_leaves(manifest.get("config"))), dict(_leaves(to_dict(stage.config)))),
        *_changed("input", {name: was[name] for name in was if name not in waits}, now),
        *_changed("outside", dict(_leaves(manifest.get("fingerprint"))), dict(_leaves(stage.fingerprint()))),
        *(Reason("module", reason.name) for reason in _changed("module", before, code)),
    ]


def _changed(kind: Any, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Reason]:
    for name in dict.fromkeys([*now, *was]):
        if was.get(name) != now.get(name) or (name in was) != (name in now):
            yield Reason(kind, name, was.get(name), now.get(name))


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration or a fingerprint as flat names and plain values; members of a list go by their kind or name."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for index, one in enumerate(value):
            yield from _leaves(one, f"{prefix}.{_name(one, index)}" if prefix else _name(one, index))
    elif value is not None:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else value


def _name(member: Any, index: int) -> str:
    known = member if isinstance(member, Mapping) else {}
    return str(known.get("kind") or known.get("name") or index)
