"""The Python standard library's own sources, as they lie on the machine: real code that needs no download."""

import hashlib
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from nano_think.data.document import Document
from nano_think.data.source import Source
from nano_think.data.sources import SOURCES

# Tests repeat themselves; the encodings are tables; pydoc_data is prose in one string; the packages are not Python's.
LEFT_OUT = {
    *("test", "tests", "idle_test", "idlelib", "encodings", "pydoc_data", "__pycache__"),
    *("site-packages", "dist-packages"),
}


def modules(root: Path) -> list[Path]:
    """The library's own modules below `root`, relative to it and sorted.

    `_sysconfigdata*` holds the paths of the machine that Python was built on, and would differ from one to the next.
    """
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in LEFT_OUT]
        names = (name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata"))
        found += [Path(folder, name).relative_to(root) for name in names]
    return sorted(found)


@SOURCES.register("python_stdlib")
class PythonStandardLibrary(Source):
    """One document per module, in the order of the paths."""

    name = "python_stdlib"
    domain = "code"
    licence = "PSF-2.0"
    groups = ("starter",)

    @property
    def origin(self) -> str:
        # Distributions patch and split it: the version alone does not say which text this is.
        root, text = Path(sysconfig.get_path("stdlib")), hashlib.sha256()
        for path in modules(root):
            text.update(path.as_posix().encode() + b"\0" + (root / path).read_bytes())
        version = f"{platform.python_implementation()} {platform.python_version()}"
        return f"{version}, its standard library (sha256 {text.hexdigest()[:16]})"

    def documents(self) -> Iterator[Document]:
        root = Path(sysconfig.get_path("stdlib"))
        self.skipped.clear()
        for path in modules(root):
            yield from self._module(root, path)

    def _module(self, root: Path, path: Path) -> Iterator[Document]:
        try:
            # Reads the coding cookie: a few modules are not UTF-8.
            with tokenize.open(root / path) as file:
                yield Document(file.read(), "python-stdlib", path.as_posix(), self.domain)
        except (OSError, SyntaxError, UnicodeDecodeError):
            self.skipped["unreadable"] += 1
