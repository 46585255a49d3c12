"""What counts as a stage's code: what it imports, in meaning and not in words."""

import contextlib
import textwrap

import pytest

from nano_think.core.errors import UsageError
from nano_think.experts import EXPERTS
from nano_think.stages import modules
from nano_think.stages.pipeline import load, plan

CODE = '''
"""A module."""

from nano_think.lower import two


def one(x: int = 1) -> int:
    """A docstring."""
    # A comment.
    return two(x)


class Settings:
    """Settings."""

    size: int = 3
    """Its size (channels)."""
'''


def forget():
    """Read every file afresh, as another process would."""
    for cached in ("_source", "_bytes", "_tree", "_imports", "_meaning", "_native"):
        getattr(modules, cached).cache_clear()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of our own instead of nano_think's: write("upper", text) writes a module, digest() reads afresh."""
    monkeypatch.setattr(modules, "HOME", tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    def digest(*names):
        forget()
        return modules.digest_modules(*(f"nano_think.{name}" for name in names))

    write("upper", CODE)
    write("lower", "def two(x):\n    return 2 * x\n")
    write("aside", "x = 1\n")
    yield write, digest
    forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A comment.", "# Another."),
        ('"""A docstring."""', '"""Another.\n\n    In two lines.\n    """'),
        ('"""Its size (channels)."""', '"""How big."""'),
        ('    """Settings."""\n', ""),
        ('"""A module."""', ""),
        ("return two(x)", "return two(  x )"),
    ],
    ids=["comment", "docstring", "field's words", "no docstring", "no module docstring", "spaces"],
)
def test_words_do_not_count(library, old, new):
    """An explanation can be mended without training anything again."""
    write, digest = library
    before = digest("upper")
    write("upper", CODE.replace(old, new))
    assert digest("upper") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("two(x)", "two(x) + 1"), ("x: int = 1", "x: int = 2"), ("size: int = 3", "size: int = 4"), ("one", "uno")],
    ids=["body", "default argument", "default setting", "name"],
)
def test_meaning_counts(library, old, new):
    """Whatever changes what the code does changes the digest."""
    write, digest = library
    before = digest("upper")
    write("upper", CODE.replace(old, new))
    assert digest("upper") != before


def test_what_is_imported_counts_and_what_is_not_does_not(library):
    """A module below counts for those above; a module aside does not."""
    write, digest = library
    before = digest("upper")
    write("aside", "x = 2\n")
    assert digest("upper") == before
    write("lower", "def two(x):\n    return 3 * x\n")
    assert digest("upper") != before


def test_import_inside_a_function_counts(library):
    """A late import is an import."""
    write, digest = library
    write("upper", "def f():\n    from nano_think.aside import x\n    return x\n")
    before = digest("upper")
    write("aside", "x = 2\n")
    assert digest("upper") != before


@pytest.mark.parametrize("name", ["fast.cpp", "fast.h"])
def test_cpp_in_a_package_counts(library, tmp_path, name):
    """Another kernel is another code, though no import shows it."""
    write, digest = library
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "__init__.py").write_text("x = 1\n")
    (tmp_path / "native" / name).write_text("int x = 1;\n")
    write("upper", "from nano_think.native import x\n")
    before = digest("upper")
    (tmp_path / "native" / name).write_text("int x = 2;\n")
    assert digest("upper") != before


def test_modules_that_import_each_other_are_no_trouble(library):
    """A circle ends."""
    write, digest = library
    write("lower", "import nano_think.upper\n")
    assert digest("upper") == digest("upper", "lower")


@pytest.mark.parametrize(
    ("text", "refused"),
    [(CODE, False), (CODE.replace("# A comment.", "# Another."), False), (CODE.replace("two(x)", "two(x + 1)"), True)],
    ids=["as it was", "another comment", "another meaning"],
)
def test_code_that_was_edited_meanwhile_is_refused(library, monkeypatch, text, refused):
    """By a process that was told of it before: the artifact would have the key of other code."""
    write, _ = library
    monkeypatch.setattr(modules, "import_module", lambda name: None)
    told = modules.load_modules("nano_think.upper")
    forget()
    write("upper", text)
    with pytest.raises(UsageError, match=r"nano_think\.upper: edited") if refused else contextlib.nullcontext():
        modules.check_modules(told)


def test_what_is_told_is_loaded(library, monkeypatch):
    """An edit comes too late for a module that is loaded."""
    loaded = []
    monkeypatch.setattr(modules, "import_module", loaded.append)
    modules.load_modules("nano_think.upper")
    assert loaded == ["nano_think.lower", "nano_think.upper"]


def keys_of(stages):
    """The digest of each stage's code."""
    forget()
    return {name: modules.digest_modules(*node.stage.modules()) for name, node in stages.items()}


@pytest.fixture
def edited(monkeypatch):
    """edited("nano_think.models.think") is the set of stages whose code changes with an edit of that module."""
    stages = plan(load("nano"))
    before, meaning = keys_of(stages), modules._meaning.__wrapped__

    def edit(module):
        changed = lambda name: meaning(name) + ("!" if name == module else "")  # noqa: E731
        changed.cache_clear = lambda: None
        monkeypatch.setattr(modules, "_meaning", changed)
        after = keys_of(stages)
        return {name for name in stages if after[name] != before[name]}

    return edit


def test_router_alone_follows_the_code_of_the_router(edited):
    """Editing the mixture makes the router and what comes after it again, and no expert."""
    changed = edited("nano_think.models.think")
    assert {"router", "memory", "evaluate"} <= changed
    assert not changed & {*EXPERTS, "embedding", "tokens", "tokenizer", "ingest"}


@pytest.mark.parametrize("name", EXPERTS)
def test_expert_follows_its_own_code_and_not_another_experts(edited, name):
    """Editing one expert trains that one again, and what contains it or is made equal to it, but no other."""
    changed = edited(EXPERTS[name].__module__)
    assert {name, "router", "memory", "calibration", "evaluate", "dense"} == changed - {"report"}


def test_loop_is_of_all_trainings(edited):
    """Editing the training loop trains everything again and reads no text again."""
    changed = edited("nano_think.training.loop")
    assert {"embedding", *EXPERTS, "router"} <= changed
    assert not changed & {"ingest", "tokenizer", "tokens"}


@pytest.mark.parametrize("module", ["nano_think.core.errors", "nano_think.core.progress", "nano_think.core.process"])
def test_what_only_tells_people_something_is_of_none(edited, module):
    """A better error message trains nothing again."""
    assert edited(module) == set()


def test_cleaning_is_of_the_ingestion(edited):
    """Editing how text is cleaned reads it again."""
    assert "ingest" in edited("nano_think.data.clean")
