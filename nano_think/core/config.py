"""Configuration: frozen dataclasses, filled from mappings with errors that a user can act on.

Every setting is a field with a docstring under it that says what it is and its unit; the command line's help and the
files share those words. Order of precedence: default < preset < `--config FILE` < flags.
"""

import contextlib
import dataclasses
import functools
import runpy
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, get_type_hints

import pydantic
import yaml

from nano_think.core.errors import UsageError, nearest

C = TypeVar("C", bound="Config")
T = TypeVar("T")


class Config:
    """Base of every configuration: unknown keys are refused. Subclasses are frozen, keyword-only, slotted
    dataclasses.
    """

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, str | bool]] = {"extra": "forbid", "use_attribute_docstrings": True}

    def at_least(self, least: int, *names: str) -> None:
        """`ValueError` for a setting that is smaller; one that is None is not set."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name}: wanted {f'at least {least}' if least else '0 or more'}, got {value}")


_reading = threading.RLock()


def one_at_a_time(read: Callable[[], T]) -> T:
    """What `read` gives, which parses Python.

    Before 3.12.3 Python counts the depth of trees that several threads build at once together, and gives up with one of
    these errors (python/cpython#106905). Ours wait for each other; another library's thread may still come between.
    """
    with _reading:
        for _ in range(20):
            with contextlib.suppress(SystemError, RecursionError):
                return read()
        return read()


def _build_adapter(kind: type) -> pydantic.TypeAdapter:
    """It reads the docstrings under the fields from the source."""
    return one_at_a_time(lambda: pydantic.TypeAdapter(kind))


_adapter: Callable[[type], pydantic.TypeAdapter] = functools.cache(_build_adapter)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON values: what is printed, hashed and kept in manifests."""
    return _adapter(type(config)).dump_python(config, mode="json")


def parse(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build `kind` from nested mappings; every mistake is reported at once, by dotted path, with the nearest name."""
    try:
        return _adapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        raise UsageError("; ".join(f"{where}: {_explain(kind, one)}" for one in error.errors())) from None


def _explain(kind: type, error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown key '{path}'.{nearest(str(error['loc'][-1]), _fields_at(kind, error['loc'][:-1]))}"
    if error["type"] == "value_error":
        return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
    if error["type"].startswith("missing"):
        return f"{path}: missing"
    wanted = error["msg"].replace("Input should be ", "").partition(", unable to parse")[0]
    return f"{path}: wanted {wanted}, got {error['input']!r}"


def _fields_at(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        kind = get_type_hints(kind).get(str(part), kind)
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` laid on top, mapping by mapping; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a configuration file: YAML or JSON, TOML, or Python, whose public names at the top are settings.

    A Python file is run: it is the user's own, named by the user.
    """
    if path.suffix == ".toml":
        return _read_toml(path)
    return _run_python(path) if path.suffix == ".py" else read_yaml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not TOML ({error})") from None


def _run_python(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration file")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise UsageError(f"{path}: does not run ({type(error).__name__}: {error})") from None
    plain = {name: value for name, value in names.items() if not name.startswith("_")}
    return {name: value for name, value in plain.items() if not isinstance(value, ModuleType | type | Callable)}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file; `UsageError` names the file and the line of a mistake."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: wanted a mapping of settings, got {type(values).__name__}")
    return values
