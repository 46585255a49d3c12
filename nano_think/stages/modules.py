"""Which code a stage uses: the modules it imports, and theirs, and a digest of what they say.

Comments and docstrings do not count, so an explanation can be mended without training anything again. C++ that lies in
a package counts with it, to the letter.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import nano_think
from nano_think.core.config import one_at_a_time
from nano_think.core.errors import UsageError

PACKAGE = "nano_think"
# Of a module: the sha256 of its files, and a digest of what they mean.
Told = Sequence[str]
HOME = Path(nano_think.__file__).parent
# What only tells people something; no result depends on it.
SILENT = tuple(
    f"nano_think.{name}" for name in ("core.console", "core.errors", "core.process", "core.progress", "stages")
)


def digest_modules(*roots: str) -> str:
    """A sha256 over what `read_modules` finds."""
    told = "".join(f"{name}:{meaning}\n" for name, meaning in read_modules(*roots).items())
    return hashlib.sha256(told.encode()).hexdigest()


def read_modules(*roots: str) -> dict[str, str]:
    """Name -> digest of the roots and all modules of this package that they import, directly or not, in any function;
    what is imported for its types alone is not used.
    """
    return {name: _meaning(name) for name in _counted(*roots)}


def tell_modules(*roots: str) -> dict[str, Told]:
    """The modules of `read_modules` as another process is told of them."""
    return {name: (_bytes(name), meaning) for name, meaning in read_modules(*roots).items()}


def load_modules(*roots: str) -> dict[str, Told]:
    """As `tell_modules`, after importing them: what this process computes from now on is what was read, though the
    files be edited.
    """
    for name in _counted(*roots):
        import_module(name)
    return tell_modules(*roots)


def check_modules(told: Mapping[str, Told]) -> None:
    """Load these modules, and refuse (`UsageError`) what was edited since somebody else has told of them: what is made
    of it would get the key of other code.
    """
    for name in told:
        import_module(name)
    edited = [name for name, (text, meaning) in told.items() if _bytes(name) != text and _meaning(name) != meaning]
    if edited:
        more = f" and {len(edited) - 3} more" if len(edited) > 3 else ""
        raise UsageError(
            f"{', '.join(edited[:3])}{more}: edited since this run began; run again (what is finished is kept)"
        )


def _counted(*roots: str) -> list[str]:
    """The roots and all modules of this package that they import, directly or not, without the silent ones."""
    seen: set[str] = set()
    queue = list(roots)
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += _imports(name) - seen
    return sorted(name for name in seen if not name.startswith(SILENT) or name in roots)


def _file(name: str) -> Path | None:
    path = HOME.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _source(name: str) -> bytes:
    """Read once: all that is said of a module is said of the same bytes."""
    file = _file(name)
    assert file, f"no module {name}"
    return file.read_bytes()


@functools.cache
def _bytes(name: str) -> str:
    return hashlib.sha256(_source(name) + "".join(_native(name)).encode()).hexdigest()


@functools.cache
def _tree(name: str) -> ast.Module:
    return _parse(_source(name))


def _parse(source: bytes) -> ast.Module:
    return one_at_a_time(lambda: ast.parse(source))


@functools.cache
def _imports(name: str) -> set[str]:
    found = set()
    for node in _used(_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in found if module.startswith(f"{PACKAGE}.") and _file(module)}


def _used(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one, without those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _used(other)
        else:
            yield from _used(child)


@functools.cache
def _meaning(name: str) -> str:
    tree = _parse(_source(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
    return hashlib.sha256("".join([ast.dump(tree), *_native(name)]).encode()).hexdigest()


@functools.cache
def _native(name: str) -> list[str]:
    file = _file(name)
    if file is None or file.name != "__init__.py":
        return []
    return [path.read_text(encoding="utf-8") for path in sorted(file.parent.glob("*")) if path.suffix in (".cpp", ".h")]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
