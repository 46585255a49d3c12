"""Where memories of conversations lie: ROOT/memory/<model digest>/<namespace>/."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nano_think.core.errors import ArtifactError, UsageError, nearest
from nano_think.core.files import lock, sync
from nano_think.memory.conversation import LOCK
from nano_think.memory.journal import LOG, Journal, Owner, read_owner
from nano_think.memory.turn import Turn

# No dots: the stage "memory" keeps its own folders, known by their manifest.json, in the same place.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# Token ids (T) to the keys behind them (T, D).
Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A memory that exists."""

    folder: Path

    @property
    def model(self) -> str:
        return self.folder.parent.name

    @property
    def namespace(self) -> str:
        return self.folder.name


def place(root: Path, model: str, namespace: str) -> Path:
    """The folder of a namespace's memory of a model; `UsageError` for a name that may not be one."""
    if not NAME.fullmatch(namespace):
        wanted = "1 to 64 of a-z, 0-9, - and _, the first a letter or digit"
        raise UsageError(f"namespace {namespace[:80]!r}: wanted {wanted}")
    return root / "memory" / model / namespace


def places(root: Path, namespace: str | None = None) -> list[Place]:
    """Every memory under a root, or those of one namespace; `UsageError` where there is no root, or a namespace has
    none.
    """
    if not root.is_dir():
        raise UsageError(f"root '{root}': no such folder; name the one that holds the memories with --root")
    found = [Place(folder=log.parent) for log in sorted((root / "memory").glob(f"*/*/{LOG}"))]
    if namespace is None:
        return found
    place(root, "", namespace)
    mine = [one for one in found if one.namespace == namespace]
    if not mine:
        raise UsageError(
            f"no memory '{namespace}' under '{root}'.{_known({one.namespace for one in found}, namespace)}"
        )
    return mine


def _known(names: set[str], name: str) -> str:
    return nearest(name, names) if names else " Nothing has been remembered there yet."


def find(root: Path, owner: Owner, namespace: str, encode: Encode | None = None) -> Path:
    """The folder of a namespace's memory of the owner's model.

    Where there is only another model's, `encode` reads its text anew; without it `ArtifactError` names both models.
    """
    folder = place(root, owner.model, namespace)
    if (folder / LOG).is_file():
        return folder
    other = max(places(root, namespace), key=lambda one: (one.folder / LOG).stat().st_mtime)
    if not encode:
        remedy = "choose that model with --model, or read the memory's text with this one: --encode-again"
        what = f"belongs to model {other.model[:12]}, wanted {owner.model[:12]}"
        raise ArtifactError(f"memory '{namespace}' {what}; {remedy}")
    encode_again(other.folder, folder, owner, encode)
    return folder


def encode_again(old: Path, new: Path, owner: Owner, encode: Encode) -> None:
    """Write the memory in `old` anew in `new`: the same turns, and the keys that another model gives their tokens.

    The context of a token is what is left of its document before it without a gap. Needs the same tokenizer, for the
    ids are what is kept; else `ArtifactError` names both.
    """
    before = read_owner(old)
    if before.tokenizer != owner.tokenizer:
        what = f"has ids of tokenizer {before.tokenizer[:12]}, wanted {owner.tokenizer[:12]}"
        raise ArtifactError(f"memory '{old.name}' {what}; it can only be read with a model of that tokenizer")
    source = Journal(old, before)
    turns = list(source.read())
    keys = dict(_encoded(turns, encode))
    encoded = [replace(turn, key=keys[turn.time][turn.offset]) for turn in turns]
    with lock(new / LOCK, f"memory '{new.name}'"):
        Journal(new, owner).create(encoded, source.head)


def _encoded(turns: list[Turn], encode: Encode) -> Iterator[tuple[int, np.ndarray]]:
    """The time of each turn and the keys of all its tokens but the last."""
    for run in _runs(turns):
        key_TD = encode(np.concatenate([turn.tokens[:-1] for turn in run]))
        ends = np.cumsum([len(turn.tokens) - 1 for turn in run])
        yield from zip((turn.time for turn in run), np.split(key_TD, ends[:-1]), strict=True)


def _runs(turns: list[Turn]) -> list[list[Turn]]:
    """Turns of one document that follow each other without a gap, together."""
    runs: list[list[Turn]] = []
    for turn in sorted(turns, key=lambda one: (one.document, one.time)):
        last = runs[-1][-1] if runs else None
        if last is not None and (last.document, last.first + len(last.tokens) - 1) == (turn.document, turn.first):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def erase(folder: Path) -> None:
    """Remove a memory with all its files, damaged or not, while nobody writes to it."""
    with lock(folder / LOCK, f"memory '{folder.name}'"):
        copies = [path for path in folder.iterdir() if path.name not in (LOG, LOCK)]
        # The log after all copies of it: a memory that was half erased is found again by its log. The lock last: once
        # its name is free, another writer may begin, and what it writes is its own.
        for path in (*copies, folder / LOG, folder / LOCK):
            path.unlink(missing_ok=True)
        sync(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
        sync(folder.parent)
