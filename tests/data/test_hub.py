"""The design's seven datasets: read from local copies in each one's own schema, by the code that reads the hub."""

import csv
import gzip
import importlib.resources
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.errors import HTTPError

from nano_think.core.config import parse
from nano_think.core.errors import InputError
from nano_think.data import hub
from nano_think.data.document import Document
from nano_think.data.hub import HubSource
from nano_think.data.ingest import IngestConfig, fingerprint, ingest
from nano_think.data.source import Reading
from nano_think.data.sources import SOURCES, groups, resolve
from nano_think.data.sources.wikitext import articles

SEVEN = ["arxiv_abstracts", "codeparrot", "ml_arxiv", "openbible", "stanford_plato", "tinystories", "wikitext"]
ON_HUB = [name for name in SEVEN if name != "openbible"]

WIKITEXT_LINES = [
    *["", " = First Thing = \n", "", " It is , as known , 3 @.@ 5 long . \n", " = 7 = \n", " A table 's line . \n"],
    *["", " = = Section = = \n", "", " More . \n", " = = = Below = = = \n", "", " Most . \n", ""],
    *["", " = E = mc ² = \n", "", " Second . \n", "", "", " = Last = \n", ""],
]
SECTION = {
    "section_title": "1. Life",
    "main_content": ["Born.", " \n"],
    "subsections": [{"subsection_title": "1.1 Youth", "content": ["Young\n once."]}],
}
BARE = {"section_title": "2. Death", "main_content": None, "subsections": []}


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def json_lines(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def arxiv_abstracts(folder: Path) -> None:
    row = {
        "id": "0704.0001",
        "submitter": None,
        "title": "Calculation of\n  diphotons",
        "comments": "37 pages",
        "abstract": "  A fully differential\ncalculation.\n",
        "categories": ["hep-ph"],
        "versions": ["v1", "v2"],
    }
    json_lines(folder / "arxiv-abstracts.jsonl.gz", [row, row | {"abstract": None}, row | {"title": "Other"}])


def ml_arxiv(folder: Path) -> None:
    with (folder / "ML-Arxiv-Papers.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Unnamed: 0.1", "Unnamed: 0", "title", "abstract"])
        rows.writerow([0, 0.0, "Learning, fast", '  We "learn"\nquickly.\n'])


def tinystories(folder: Path) -> None:
    parquet(folder / "data/train-00001-of-00002-b.parquet", [{"text": "Third."}])
    parquet(folder / "data/train-00000-of-00002-a.parquet", [{"text": "One day.\n\nThe end."}, {"text": ""}])
    parquet(folder / "data/validation-00000-of-00001-c.parquet", [{"text": "Not this."}])
    (folder / "TinyStories-train.txt").write_text("Nor this.", encoding="utf-8")


def wikitext(folder: Path) -> None:
    half = len(WIKITEXT_LINES) // 2
    for number, lines in enumerate((WIKITEXT_LINES[:half], WIKITEXT_LINES[half:])):
        path = folder / f"wikitext-103-raw-v1/train-0000{number}-of-00002.parquet"
        parquet(path, [{"text": line} for line in lines])
    parquet(folder / "wikitext-2-raw-v1/train-00000-of-00001.parquet", [{"text": " Not this . \n"}])
    # The card of the real one names a configuration for each folder.
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("wikitext-103-raw-v1", "wikitext-2-raw-v1")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")


def codeparrot(folder: Path) -> None:
    row = {"repo_name": "a/b", "path": "c.py", "copies": "1", "content": "x = 1\n", "license": "mit", "hash": 7}
    json_lines(folder / "file-000000000054.json.gz", [row, row | {"content": "if x:\n\tpass\n"}])


def stanford_plato(folder: Path) -> None:
    row = {
        "shorturl": "ada",
        "title": "Ada",
        "pubinfo": "First published",
        "preamble": ["Ada\n   was.", ""],
        "toc": [{"content_title": "1. Life", "sub_toc": ["1.1 Youth"]}],
        "main_text": [SECTION, BARE],
        "bibliography": ["A book."],
        "related_entries": [{"href": "../x/", "text": "x"}],
    }
    parquet(folder / "data/train-00000-of-00001-d.parquet", [row])


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer for writer in (arxiv_abstracts, ml_arxiv, tinystories, wikitext, codeparrot, stanford_plato)
}
TEXTS = {
    "arxiv_abstracts": {
        0: "Calculation of diphotons\n\nA fully differential calculation.",
        2: "Other\n\nA fully differential calculation.",
    },
    "ml_arxiv": {0: 'Learning, fast\n\nWe "learn" quickly.'},
    "tinystories": {0: "One day.\n\nThe end.", 2: "Third."},
    "wikitext": {
        1: "= First Thing =\nIt is , as known , 3 @.@ 5 long .\n= 7 =\nA table 's line .\n"
        "= = Section = =\nMore .\n= = = Below = = =\nMost .",
        15: "= E = mc ² =\nSecond .",
        20: "= Last =",
    },
    "codeparrot": {0: "x = 1\n", 1: "if x:\n\tpass\n"},
    "stanford_plato": {0: "Ada\n\nAda was.\n\n1. Life\n\nBorn.\n\n1.1 Youth\n\nYoung once.\n\n2. Death"},
}


def copy_of(name: str, tmp_path: Path) -> HubSource:
    """The source `name`, given a folder with what its dataset's repository holds."""
    folder = tmp_path / f"{name} copy"
    folder.mkdir()
    WRITERS[name](folder)
    source = resolve((f"{name}:{folder}",))[0]
    assert isinstance(source, HubSource)
    return source


def test_the_seven_are_one_group_with_the_counts_of_the_design() -> None:
    """The table of the design, by name: documents and domain."""
    assert groups()["seven"] == SEVEN
    table = {source.name: source.domain for source in resolve(("seven",))}
    assert list(table) == SEVEN
    assert list(table.values()) == ["academic", "code", "academic", "theology", "philosophy", "general", "general"]
    counts = {name: SOURCES[name].rows for name in ON_HUB}  # type: ignore[attr-defined]
    assert sum(counts.values()) + 10_000 == 56_000
    assert (counts["codeparrot"], counts["stanford_plato"]) == (5_000, 1_000)


@pytest.mark.parametrize("name", ON_HUB)
def test_every_dataset_is_pinned_cited_and_licensed(name: str) -> None:
    """Asked without the network: the origin names the id and a whole commit, so the key of a run needs no hub."""
    source = resolve((name,))[0]
    assert isinstance(source, HubSource)
    assert source.licence and source.citation and source.name == name
    assert source.revision and len(source.revision) == 40 and source.revision in source.origin
    assert source.dataset in source.origin and f"{source.rows:,}" in source.origin


@pytest.mark.parametrize("name", ON_HUB)
def test_a_copy_in_the_schema_of_the_dataset_is_read(name: str, tmp_path: Path) -> None:
    """The loading code on Parquet, JSON lines and CSV: texts, ids, order, and the same again at a second reading."""
    source = copy_of(name, tmp_path)
    source.check()
    expected = [Document(text, name, f"{name}/{row}", source.domain) for row, text in TEXTS[name].items()]
    assert list(source.documents()) == expected
    assert list(source.documents()) == expected
    assert dict(source.skipped) == ({"no text": 1} if name in ("arxiv_abstracts", "tinystories") else {})


def test_openbible_is_kjv() -> None:
    """The design's rows are the starter corpus's, document by document."""
    assert list(SOURCES["openbible"]().documents()) == list(SOURCES["kjv"]().documents())


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_the_limit_counts_documents_and_is_exact(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without text takes no place, and no more rows are read than are needed."""
    for name in ("tinystories", "wikitext"):
        source = copy_of(name, tmp_path)
        monkeypatch.setattr(type(source), "rows", rows)
        assert [document.text for document in source.documents()] == list(TEXTS[name].values())[:rows]


def test_articles_begin_at_titles_between_blank_lines() -> None:
    """No line is lost, whatever stands before the first title or after the last line."""
    assert list(articles([])) == []
    assert list(articles(["", " \n"])) == []
    assert list(articles([" Loose . \n", "", " = A = \n", "", " a \n"])) == [(0, ["Loose ."]), (2, ["= A =", "a"])]
    found = [line for _, lines in articles(WIKITEXT_LINES) for line in lines]
    assert found == [line.strip() for line in WIKITEXT_LINES if line.strip()]


def test_the_origin_of_a_copy_changes_with_its_content(tmp_path: Path) -> None:
    """A copy is known by the digests of the files that are read, and by no others."""
    source = copy_of("tinystories", tmp_path)
    config = IngestConfig(sources=(f"tinystories:{source.folder}",))
    before = fingerprint(config)
    assert source.folder
    (source.folder / "README.md").write_text("read by nobody", encoding="utf-8")
    assert fingerprint(config) == before
    parquet(source.folder / "data/train-00001-of-00002-b.parquet", [{"text": "Fourth."}])
    assert fingerprint(config) != before


def test_copies_are_ingested_and_described(tmp_path: Path) -> None:
    """Ingestion of the six from folders: every document arrives, and the manifest tells dataset and licence."""
    specs = tuple(f"{name}:{copy_of(name, tmp_path).folder}" for name in ON_HUB)
    summary = ingest(IngestConfig(sources=specs), tmp_path / "out")
    assert summary["cleaning"]["kept"] == sum(map(len, TEXTS.values()))
    assert [row["name"] for row in summary["sources"]] == ON_HUB
    assert all(SOURCES[row["name"]].dataset in row["origin"] for row in summary["sources"])  # type: ignore[attr-defined]


def test_without_the_hub_every_dataset_has_its_line_at_once(tmp_path: Path) -> None:
    """Offline: six lines in a moment, each with the id and what to do, and nothing is written."""
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        ingest(IngestConfig(sources=("starter", "seven")), tmp_path / "out")
    assert time.monotonic() - started < 30
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == ON_HUB
    for name, line in zip(ON_HUB, lines, strict=True):
        assert line.startswith(f"{name} ({SOURCES[name].dataset}): the hub is switched off by HF_HUB_OFFLINE")  # type: ignore[attr-defined]
        assert line.endswith("--offline-ok, or files of your own: --sources 'jsonl:PATH/*.jsonl'")
    assert not (tmp_path / "out").exists()
    assert caught.value.exit_code == 3


def test_without_datasets_the_message_is_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra: one line for all, since one command mends all."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = r"^the package 'datasets' is not installed; run: pip install 'nano_think\[hub\]'$"
    with pytest.raises(InputError, match=message):
        ingest(IngestConfig(sources=("seven",)), tmp_path / "out")


def test_the_library_is_imported_only_by_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, groups and origins of the seven need neither the package nor the hub."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert [row["name"] for row in fingerprint(IngestConfig(sources=("seven",)))] == SEVEN


def test_a_wrong_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    """An empty folder is told with the id and the pattern of its files, beside the other problems of the run."""
    with pytest.raises(InputError) as caught:
        resolve((f"tinystories:{tmp_path}", f"wikitext:{tmp_path}/none"))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"tinystories:{tmp_path}: no file there matches 'data/train-*.parquet'; wanted a copy")
    assert second.endswith("wanted a copy of the files of Salesforce/wikitext")


def test_other_columns_are_named(tmp_path: Path) -> None:
    """A dataset that has changed its schema is refused at the first row."""
    source = copy_of("tinystories", tmp_path)
    assert source.folder
    parquet(source.folder / "data/train-00000-of-00002-a.parquet", [{"story": "x", "id": 1}])
    with pytest.raises(InputError, match=r"row 0 lacks text; it has story, id: not the dataset that this source knows"):
        list(source.documents())


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1" + b"\0" * 20 + b"PAR1"])
def test_a_damaged_file_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    """What `datasets` and pyarrow raise becomes an `InputError` of one line with the dataset's name."""
    source = copy_of("tinystories", tmp_path)
    assert source.folder
    (source.folder / "data/train-00000-of-00002-a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"^tinystories \(.*\): cannot be read \(") as caught:
        list(source.documents())
    assert "\n" not in str(caught.value)


def test_a_code_file_in_a_copy_is_never_run(tmp_path: Path) -> None:
    """A loading script is refused: data files only."""
    source = copy_of("tinystories", tmp_path)
    assert source.folder
    (source.folder / f"{source.folder.name}.py").write_text("raise SystemExit('run')", encoding="utf-8")
    with pytest.raises(InputError, match="scripts are no longer supported"):
        list(source.documents())


def test_the_seed_preset_names_the_seven() -> None:
    """What `--preset seed` reads is the table of the design."""
    preset = yaml.safe_load((importlib.resources.files("nano_think") / "presets/seed.yaml").read_text(encoding="utf-8"))
    config = parse(IngestConfig, preset["ingest"], "seed.yaml")
    assert [source.name for source in resolve(config.sources, Reading())] == SEVEN


class Hub:
    """What `HfApi` is replaced by where a test says how the hub answers."""

    answer: object = None

    def dataset_info(self, dataset: str, *, revision: str | None, timeout: float) -> object:
        assert 0 < timeout <= 10
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(sha=revision or "0" * 40, siblings=[SimpleNamespace(rfilename=self.answer)])


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    """The hub seems to be there: its switches are on, and a test's own answer takes the place of the network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", type("Answering", (Hub,), {}))
    hub.commit.cache_clear()
    return huggingface_hub.HfApi


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("Name or service not known"), "the hub does not answer (ConnectionError: Name or service"),
        (HTTPError("timed out"), "the hub does not answer (HTTPError: timed out)"),
        (TimeoutError(), "the hub does not answer (TimeoutError)"),
        (ValueError("Expecting value"), "cannot be read (ValueError: Expecting value)"),
        ("README.md", f"no file matches 'data/train-*.parquet' at {SOURCES['tinystories'].revision}"),  # type: ignore[attr-defined]
    ],
)
def test_every_way_of_failing_is_one_line(online: type[Hub], answer: object, message: str) -> None:
    """No network, no time, no sense, other files: an `InputError` that begins with the dataset."""
    online.answer = answer
    with pytest.raises(InputError) as caught:
        SOURCES["tinystories"]().check()
    assert str(caught.value).startswith(f"tinystories (roneneldan/TinyStories): {message}")
    assert str(caught.value).endswith(hub.OFFLINE)


def test_the_newest_commit_is_recorded_where_none_is_pinned(online: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpinned dataset asks for its commit, so that its origin changes with its content."""
    monkeypatch.setattr(SOURCES["tinystories"], "revision", None)
    online.answer = "data/train-00000-of-00004-x.parquet"
    assert f"at {'0' * 40}," in resolve(("tinystories",))[0].origin
    hub.commit.cache_clear()
    online.answer = ConnectionError("gone")
    with pytest.raises(InputError, match=r"^tinystories .*does not answer"):
        fingerprint(IngestConfig(sources=("seven",)))


def test_nothing_is_retried_for_long() -> None:
    """`datasets` alone would wait for minutes on a stream that broke."""
    config = hub.library().config
    assert config.STREAMING_READ_MAX_RETRIES == config.STREAMING_OPEN_MAX_RETRIES == hub.TRIES
