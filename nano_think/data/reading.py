"""The first half of ingestion: every source is read and cleaned by itself, all at once, each into a part of its own.

A part is two Arrow files and a note that is written last. A run that was killed reads only the sources again whose note
is missing. As a process: `python -m nano_think.data.reading FOLDER`.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.core.errors import ArtifactError, NanoThinkError
from nano_think.core.files import digest, read_json, write_json
from nano_think.core.process import child_environment, die_with_parent, emit, run_children
from nano_think.data.clean import Cleaner
from nano_think.data.contamination import Passages
from nano_think.data.document import Document
from nano_think.data.shards import BATCH_BYTES, COLUMNS, ArrowWriter, document_schema
from nano_think.data.source import Reading, Source
from nano_think.data.sources import resolve

if TYPE_CHECKING:
    import pyarrow as pa

JOBS, CLAIMS, PASSAGES = "jobs.json", "claims", "passages"
# Below this many bytes to read, starting processes takes longer than they save.
WORTH_A_PROCESS = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """One source, read and cleaned. `index` of it is small; the texts are read batch by batch."""

    folder: Path
    number: int

    @property
    def texts(self) -> Path:
        return self.folder / f"{self.number:05d}.texts.arrow"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.number:05d}.index.arrow"

    @property
    def note(self) -> Path:
        return self.folder / f"{self.number:05d}.json"

    def identity(self) -> str | None:
        """The job that the finished part was made for."""
        return read_json(self.note)["identity"] if self.note.is_file() else None


def read_all(sources: list[Source], cleaning: dict[str, Any], reading: Reading, folder: Path, workers: int) -> None:
    """Make the parts of all sources in `folder`, by `workers` processes; those that are there already stay.

    `cleaning` holds `min_chars` and `passages`, a digest of the evaluation sets whose passages lie in `folder`.
    The parts do not depend on `workers`. Raises the first error of any source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [_job(number, source, cleaning, reading) for number, source in enumerate(sources)]
    known = set(range(len(jobs)))
    for path in folder.glob("*.json"):
        if path.stem.isdigit() and int(path.stem) not in known:
            path.unlink()
    open_jobs = [number for number in known if Part(folder, number).identity() != digest(jobs[number])]
    sizes = {number: sources[number].size for number in open_jobs}
    far = sum(size is None for size in sizes.values())
    workers = min(workers, len(open_jobs))
    if workers < 2 or (far < 2 and sum(size or 0 for size in sizes.values()) < WORTH_A_PROCESS):
        for number in open_jobs:
            read_part(sources[number], jobs[number], Part(folder, number))
        return
    # The largest first: one that is begun last keeps the others waiting.
    order = sorted(open_jobs, key=lambda number: -(WORTH_A_PROCESS if sizes[number] is None else sizes[number] or 0))
    write_json(folder / JOBS, [[number, jobs[number]] for number in order])
    with _claims(folder):
        command = [sys.executable, "-m", __name__, str(folder)]
        run_children([list(command) for _ in range(workers)], child_environment(1, {}), lambda _: None)


def _job(number: int, source: Source, cleaning: dict[str, Any], reading: Reading) -> dict[str, Any]:
    limits = {"bad_lines": reading.bad_lines, "max_doc_bytes": reading.max_doc_bytes}
    return {"spec": source.spec, "origin": source.origin, "cleaning": cleaning, "reading": limits}


@contextlib.contextmanager
def _claims(folder: Path) -> Iterator[None]:
    """While the block lasts, a process may take a job by making a file of its number; each job is taken once."""
    claims = folder / CLAIMS
    claims.mkdir(exist_ok=True)
    _empty(claims)
    try:
        yield
    finally:
        _empty(claims)
        claims.rmdir()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _claim(folder: Path, number: int) -> bool:
    try:
        (folder / CLAIMS / str(number)).open("x").close()
    except OSError:
        return False
    return True


def read_part(source: Source, job: dict[str, Any], part: Part) -> None:
    """Read and clean one source."""
    part.note.unlink(missing_ok=True)
    cleaning = job["cleaning"]
    passages = Passages.load(part.folder / PASSAGES) if cleaning["passages"] else None
    cleaner = Cleaner(min_chars=cleaning["min_chars"], max_doc_bytes=job["reading"]["max_doc_bytes"])
    with writing(part) as writer:
        for document, own, first in cleaner.clean(source.documents()):
            if passages and passages.meet(document.text):
                cleaner.counts["contaminated"] += 1
            else:
                writer.add(document, own, first)
    counts = dict(cleaner.counts) | {"bad_lines": source.skipped.total()}
    write_json(part.note, {"identity": digest(job), "counts": counts})


def index_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [("digest", pa.binary(16)), ("first", pa.binary(8)), ("bytes", pa.int32()), ("domain", pa.string())]
    )


@contextlib.contextmanager
def writing(part: Part) -> Iterator["PartWriter"]:
    """The files of a part, which take their names when the block ends well."""
    with ArrowWriter(part.texts, document_schema()) as texts, ArrowWriter(part.index, index_schema()) as index:
        writer = PartWriter(texts, index)
        yield writer
        writer.flush()


class PartWriter:
    """Writes documents and what is known of them, batch by batch."""

    def __init__(self, texts: ArrowWriter, index: ArrowWriter):
        self._texts, self._index = texts, index
        self._rows: list[tuple[Document, bytes, bytes, int]] = []
        self._size = 0

    def add(self, document: Document, own: bytes, first: bytes) -> None:
        size = len(document.text.encode())
        # Half of a sha256 is beyond any chance of collision and half the memory.
        self._rows.append((document, own[:16], first[:8], size))
        self._size += size
        if self._size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        rows, self._rows, self._size = self._rows, [], 0
        if rows:
            documents, own, first, sizes = zip(*rows, strict=True)
            self._texts.write({name: [getattr(document, name) for document in documents] for name in COLUMNS})
            domains = [document.domain for document in documents]
            self._index.write({"digest": own, "first": first, "bytes": sizes, "domain": domains})


def main(folder: Path) -> int:
    """Take jobs of `folder` until none is left."""
    die_with_parent()
    try:
        for number, job in read_json(folder / JOBS):
            if _claim(folder, number):
                reading = Reading(**job["reading"])
                [source] = resolve((job["spec"],), reading)
                if source.origin != job["origin"]:
                    raise ArtifactError(f"{job['spec']}: changed while it was being read; run again")
                read_part(source, job, Part(folder, number))
        return 0
    except NanoThinkError as error:
        emit({"event": "error", "code": error.exit_code, "message": str(error)})
        return error.exit_code
    except Exception as error:
        trace = traceback.format_exc()
        emit({"event": "error", "code": 1, "message": f"{type(error).__name__}: {error}", "trace": trace})
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
