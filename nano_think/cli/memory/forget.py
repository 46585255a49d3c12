"""`nano-think memory forget`: erase conversations, or a namespace, from the disk."""

import json
from dataclasses import dataclass
from pathlib import Path

from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import UsageError
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import read_owner
from nano_think.memory.places import Place, erase, places
from nano_think.stages.artifact import find_model


@dataclass(frozen=True, kw_only=True)
class ForgetArguments:
    """Erase documents (conversations) of a namespace, or all of it.

    All entries and tokens of a document go, from every file. What stands in other documents stays, also where it was
    thought or answered in sight of this one: a conversation that branched off keeps only its own end, but its keys had
    the beginning in view, and an answer may repeat what it was told. --all leaves nothing.
    """

    namespace: str
    """Whose."""
    document: tuple[int, ...] = ()
    """Numbers of documents of one model's memory, as `search` and `export` print them."""
    all: bool = False
    """The whole namespace, of every model unless --model is given, also where its files are damaged."""
    model: str | None = None
    """Whose numbers they are, needed where several models have the namespace: "latest", "chat-latest", the folder of a
    model, or the beginning of its digest, as `stats` prints it."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        if bool(self.document) == self.all:
            raise ValueError("wanted either --document NUMBER ... or --all")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ForgetArguments, "memory forget", arguments)
    found = _chosen(wanted)
    forgotten = None
    if wanted.all:
        for one in found:
            erase(one.folder)
    else:
        forgotten = _forget(found, wanted)
    if wanted.json:
        print(json.dumps({"namespace": wanted.namespace, "entries": forgotten, "all": wanted.all}))
    else:
        print(f"erased {'all' if wanted.all else f'{forgotten:,} entries'} of '{wanted.namespace}'")
    return 0


def _chosen(wanted: ForgetArguments) -> list[Place]:
    """The memories of the namespace, or the one of the model that is asked for; `UsageError` where it has none."""
    found = places(wanted.root, wanted.namespace)
    if wanted.model is None:
        return found
    model = wanted.model
    if model in ("latest", "chat-latest") or Path(model).is_dir():
        model = find_model(model, wanted.root)[0].digest
    mine = [one for one in found if one.model.startswith(model)]
    if len(mine) != 1:
        what = f"--model {wanted.model}: wanted one of the models that have memory '{wanted.namespace}'"
        raise UsageError(f"{what}, {_models(found)}; got {len(mine)} of them")
    return mine


def _forget(found: list[Place], wanted: ForgetArguments) -> int:
    """Each model's memory gives numbers of its own, so documents are those of one alone; how many entries went."""
    if len(found) > 1:
        what = f"memory '{wanted.namespace}' is of several models, each with numbers of its own"
        raise UsageError(f"--document: {what}; say which with --model: {_models(found)}")
    (one,) = found
    with Conversations(one.folder, read_owner(one.folder), write=True) as memory:
        forgotten = memory.forget(wanted.document)
    if not forgotten:
        raise UsageError(f"memory '{wanted.namespace}' has no document {', '.join(map(str, wanted.document))}")
    return forgotten


def _models(found: list[Place]) -> str:
    return ", ".join(one.model[:12] for one in found)
