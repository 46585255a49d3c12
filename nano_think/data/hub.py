"""Datasets of the Hugging Face hub, streamed through `datasets`: their data files only, never code of theirs.

A source names an id, a revision and the files to read. Given a folder with a copy of those files it reads them by the
same code and without the network: `--sources tinystories:PATH`.
"""

import functools
import logging
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from nano_think.core.errors import InputError
from nano_think.core.files import digest, sha256
from nano_think.data.document import Document
from nano_think.data.source import Reading, Source, Unreachable

# Seconds for the hub's answer to the one question that is asked of it before any work is done.
ANSWER_WITHIN = 5.0
# `datasets` alone would try 20 times, 5 to 60 seconds apart, when a stream breaks.
TRIES = 3
INSTEAD = "go on without it: --sources starter, or files of your own: --sources 'jsonl:PATH/*.jsonl'"
OFFLINE = "go on with what stands in for it: --offline-ok, or files of your own: --sources 'jsonl:PATH/*.jsonl'"

Row = dict[str, Any]


class HubSource(Source):
    """The first `rows` documents of a dataset on the hub, in the order of its files."""

    dataset: ClassVar[str]
    """Its id on the hub."""
    revision: ClassVar[str | None] = None
    """The commit that is read; None = the newest of the default branch, which is then asked for and recorded."""
    files: ClassVar[str]
    """Which of its files are read, as a glob: Parquet, JSON lines or CSV."""
    split: ClassVar[str] = "train"
    columns: ClassVar[tuple[str, ...]]
    """The columns that `text` uses."""
    rows: ClassVar[int]
    """How many documents the design takes."""
    citation: ClassVar[str]
    groups: ClassVar[tuple[str, ...]] = ("seven",)

    def __init__(self, folder: Path | None = None):
        super().__init__()
        self.folder = folder

    @classmethod
    def from_spec(cls, argument: str, reading: Reading) -> list[Source]:
        return [cls(Path(argument).expanduser().absolute() if argument else None)]

    @property
    def remote(self) -> bool:
        return self.folder is None

    @property
    def what(self) -> str:
        """How messages name it."""
        return f"{self.name} ({self.folder or self.dataset})"

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.folder}" if self.folder else self.name

    @property
    def size(self) -> int | None:
        return sum(path.stat().st_size for path in self.folder.glob(self.files)) if self.folder else None

    @functools.cached_property
    def origin(self) -> str:
        if self.folder:
            return f"{self.citation}: {self.dataset}, {self._of_folder(self.folder)}"
        revision = self.revision or commit(self.what, self.dataset, None, self.files)
        return f"{self.citation}: {self.dataset} at {revision}, {self.files}, the first {self.rows:,}"

    def check(self) -> None:
        library()
        if not self.folder:
            commit(self.what, self.dataset, self.revision, self.files)

    def documents(self) -> Iterator[Document]:
        self.skipped.clear()
        with closing(self._stream()) as rows:
            for number, text in islice(self.texts(rows), self.rows):
                yield Document(text, self.name, f"{self.name}/{number}", self.domain)

    def texts(self, rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
        """The number of a document's first row and its text; here every row that has text is a document."""
        for number, row in enumerate(rows):
            if text := self.text(row):
                yield number, text
            else:
                self.skipped["no text"] += 1

    def text(self, row: Row) -> str:
        """The text of one row, empty if it has none."""
        return row[self.columns[0]] or ""

    def _stream(self) -> Generator[Row, None, None]:
        path, revision = (self.folder, None) if self.folder else (self.dataset, self.revision)
        if not self.folder and not revision:
            revision = commit(self.what, self.dataset, None, self.files)
        for number, row in enumerate(stream(self.what, str(path), revision, self.files, self.split)):
            if missing := [column for column in self.columns if column not in row]:
                names = f"{', '.join(missing)}; it has {', '.join(row)}"
                raise InputError(f"{self.what}: row {number} lacks {names}: not the dataset that this source knows")
            yield row

    def _of_folder(self, folder: Path) -> str:
        files = sorted(path for path in folder.glob(self.files) if path.is_file())
        if not files:
            wanted = f"wanted a copy of the files of {self.dataset}"
            raise InputError(f"{self.name}:{folder}: no file there matches '{self.files}'; {wanted}")
        return f"{len(files)} local files, sha256 {digest([sha256(path) for path in files])}"


def library() -> Any:
    """The package `datasets`, imported only where a hub dataset is read."""
    try:
        import datasets
    except ImportError:
        raise InputError("the package 'datasets' is not installed; run: pip install 'nano_think[hub]'") from None
    # What it logs as an error it raises too, and that is told in our words.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = TRIES
    return datasets


def stream(what: str, path: str, revision: str | None, files: str, split: str) -> Iterator[Row]:
    """The rows of a split, from a hub id at a revision or from a local folder, in the order of the sorted files."""
    datasets = library()
    # Streaming keeps nothing. A cache of its own shuts out what another program left in the user's under the same id.
    with tempfile.TemporaryDirectory(prefix="nano_think-hub-") as cache, reading(what):
        yield from datasets.load_dataset(
            path, data_files={split: files}, split=split, revision=revision, streaming=True, cache_dir=cache
        )


@functools.cache
def commit(what: str, dataset: str, revision: str | None, files: str) -> str:
    """The commit that a revision names, asked of the hub once in a process; `InputError` where it cannot be read."""
    datasets = library()
    from huggingface_hub import HfApi, constants

    if datasets.config.HF_HUB_OFFLINE or constants.is_offline_mode():
        raise Unreachable(what, "the hub is switched off by HF_HUB_OFFLINE or HF_DATASETS_OFFLINE", OFFLINE)
    with reading(what, OFFLINE):
        info = HfApi().dataset_info(dataset, revision=revision, timeout=ANSWER_WITHIN)
    if not any(Path(sibling.rfilename).match(files) for sibling in info.siblings or ()):
        raise Unreachable(what, f"no file matches '{files}' at {info.sha}", OFFLINE)
    return info.sha or ""


@contextmanager
def reading(what: str, instead: str = INSTEAD) -> Iterator[None]:
    """What goes wrong inside `datasets`, the hub's client and the file readers, as one line that says what to do."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise Unreachable(what, f"the hub does not give it ({_line(error)})", instead) from error
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        raise Unreachable(what, f"the hub does not answer ({_line(error)})", instead) from error
    except (DatasetsError, OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
        raise Unreachable(what, f"cannot be read ({_line(error)})", instead) from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()).partition(" for url")[0]
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
