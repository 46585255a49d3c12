"""`nano-think memory forget`: erase conversations, or a namespace, from the disk."""

import json
from dataclasses import dataclass
from pathlib import Path

from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import UsageError
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import read_owner
from nano_think.memory.places import Place, erase, places


@dataclass(frozen=True, kw_only=True)
class ForgetArguments:
    """Erase documents (conversations) of a namespace, or all of it, for every model that has read them."""

    namespace: str
    """Whose."""
    document: tuple[int, ...] = ()
    """Numbers of documents, as `search` and `export` print them."""
    all: bool = False
    """The whole namespace, also where its files are damaged."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        if bool(self.document) == self.all:
            raise ValueError("wanted either --document NUMBER ... or --all")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ForgetArguments, "memory forget", arguments)
    found = places(wanted.root, wanted.namespace)
    forgotten = None
    if wanted.all:
        for one in found:
            erase(one.folder)
    else:
        forgotten = sum(_forget(one, wanted.document) for one in found)
        if not forgotten:
            raise UsageError(f"memory '{wanted.namespace}' has no document {', '.join(map(str, wanted.document))}")
    if wanted.json:
        print(json.dumps({"namespace": wanted.namespace, "entries": forgotten, "all": wanted.all}))
    else:
        print(f"erased {'all' if wanted.all else f'{forgotten:,} entries'} of '{wanted.namespace}'")
    return 0


def _forget(one: Place, documents: tuple[int, ...]) -> int:
    with Conversations(one.folder, read_owner(one.folder), write=True) as memory:
        return memory.forget(documents)
