"""Configuration: what is wrong is named by its path, with the nearest name, all at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nano_think.core.config import Config, flatten, one_at_a_time, overlay, parse, read_yaml, to_dict
from nano_think.core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner(Config):
    width: int = 4
    kind: Literal["round", "square"] = "round"
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width: wanted at least 1, got {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer(Config):
    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)


def test_values_are_filled_in_and_come_back():
    config = parse(Outer, {"name": "n", "inner": {"width": 7}, "sizes": [3]}, "file.yaml")
    assert config == Outer(name="n", inner=Inner(width=7), sizes=(3,))
    assert to_dict(config) == {"name": "n", "inner": {"width": 7, "kind": "round", "rate": 0.5}, "sizes": [3]}
    assert parse(Outer, to_dict(config), "again") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"widht": 3}}, "unknown key 'inner.widht'. Did you mean 'width'? Known: kind, rate, width."),
        ({"iner": {}}, "unknown key 'iner'. Did you mean 'inner'? Known: inner, name, sizes."),
        ({"inner": {"zzz": 1}}, "unknown key 'inner.zzz'. Known: kind, rate, width."),
        ({"inner": {"width": "four"}}, "inner.width: wanted a valid integer, got 'four'"),
        ({"inner": {"rate": "fast"}}, "inner.rate: wanted a valid number, got 'fast'"),
        ({"inner": {"width": 0}}, "inner: width: wanted at least 1, got 0"),
        ({"inner": {"kind": "oval"}}, "inner.kind: wanted 'round' or 'square', got 'oval'"),
        ({"inner": 3}, "inner: wanted a dictionary or an instance of Inner, got 3"),
        ({"sizes": [1, "x"]}, "sizes.1: wanted a valid integer, got 'x'"),
        ({1: 2}, "1: wanted Keys should be strings, got 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_named_by_path(values, message: str):
    with pytest.raises(UsageError) as error:
        parse(Outer, {"name": "n"} | values, "file.yaml")
    assert str(error.value) == f"file.yaml: {message}" and error.value.exit_code == 2


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UsageError) as error:
        parse(Outer, {"inner": {"width": "x", "colour": 1}}, "f")
    parts = str(error.value).split("; ")
    assert len(parts) == 3 and "f: name: missing" in parts and all(part.startswith("f: ") for part in parts)


def test_overlay_lays_leaf_on_leaf_and_changes_neither():
    base, over = {"a": {"x": 1, "y": 2}, "b": 3, "c": {"z": 1}}, {"a": {"y": 5}, "c": 7, "d": {"w": 1}}
    assert overlay(base, over) == {"a": {"x": 1, "y": 5}, "b": 3, "c": 7, "d": {"w": 1}}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3, "c": {"z": 1}} and over["a"] == {"y": 5}


def test_flatten_gives_dotted_leaves():
    assert dict(flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None})) == {"a.b.c": 1, "a.d": [2], "e": None}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_yaml_is_read(tmp_path: Path):
    assert read_yaml(write(tmp_path / "a.yaml", b"a: {b: 1}\nc: x\n")) == {"a": {"b": 1}, "c": "x"}
    assert read_yaml(write(tmp_path / "b.json", b'{"a": {"b": 1}}')) == {"a": {"b": 1}}
    assert read_yaml(write(tmp_path / "empty.yaml", b"# nothing\n")) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1,\nc: 2\n", r"c.yaml:\d: not YAML"),
        (b"a: \xff\n", r"c.yaml: byte 3 is not UTF-8"),
        (b"- 1\n", r"c.yaml: wanted a mapping of settings, got list"),
        (b"[]", r"c.yaml: wanted a mapping of settings, got list"),
        (b"false", r"c.yaml: wanted a mapping of settings, got bool"),
        (b"a\x00b", r"c.yaml: not YAML"),
        (b"!!python/object/apply:os.getcwd []", r"c.yaml:1: not YAML"),
    ],
    ids=["torn", "not UTF-8", "list", "empty list", "false", "NUL", "object"],
)
def test_what_is_no_mapping_is_named_with_its_line(content: bytes, message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        read_yaml(write(tmp_path / "c.yaml", content))


def test_missing_file_and_folder_are_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none.yaml: no such configuration file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)


def test_threads_read_python_one_at_a_time():
    """Trees that two threads build at once break Python 3.11: readers wait for each other, and try again where another
    library's thread came between.
    """
    inside, most, tries, guard = [0], [0], [0], threading.Lock()

    def read():
        with guard:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        with guard:
            inside[0] -= 1
            tries[0] += 1
            first = tries[0] == 1
        if first:
            raise SystemError("AST constructor recursion depth mismatch")
        return "read"

    with ThreadPoolExecutor(4) as pool:
        assert [one.result() for one in [pool.submit(one_at_a_time, read) for _ in range(4)]] == ["read"] * 4
    assert most == [1] and tries == [5]
