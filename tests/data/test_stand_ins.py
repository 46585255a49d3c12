"""Where the hub does not answer: what stands in, what is left out, and that the manifest tells it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nano_think.core.errors import InputError
from nano_think.data import stand_ins
from nano_think.data.hub import HubSource
from nano_think.data.ingest import IngestConfig, fingerprint, ingest
from nano_think.data.source import Unreachable
from nano_think.data.sources import SOURCES, resolve
from nano_think.data.stand_ins import settle
from nano_think.stages.ingest import Ingest

NO_STAND_IN = ["arxiv_abstracts", "ml_arxiv", "stanford_plato"]


@pytest.fixture(autouse=True)
def ask_again() -> Iterator[None]:
    """Each test is a process of its own, as far as the hub's answers go."""
    stand_ins.reason.cache_clear()
    yield
    stand_ins.reason.cache_clear()


def config(*sources: str, **changes: object) -> IngestConfig:
    return IngestConfig(sources=sources, offline_ok=True, max_bytes_per_source=20_000, **changes)  # type: ignore[arg-type]


def names(*specs: str) -> list[str]:
    return [source.name for source in settle(specs, offline_ok=True).sources]


def answers(monkeypatch: pytest.MonkeyPatch, *reachable: str) -> list[str]:
    """Let the hub answer for some datasets; returns the list of those that were asked, which grows."""
    questions: list[str] = []

    def check(source: HubSource) -> None:
        questions.append(source.name)
        if source.name not in reachable:
            raise Unreachable(source.what, "the hub does not answer", "do without")

    monkeypatch.setattr(HubSource, "check", check)
    return questions


def test_a_stand_in_is_on_this_machine_and_of_the_same_domain() -> None:
    """What stands in for a dataset needs no network, and its figures keep their place in every table."""
    for source in SOURCES.values():
        if source.stand_in:
            other = SOURCES[source.stand_in]()
            assert not other.remote and other.domain == source.domain and source().remote
    assert [name for name in _on_hub() if not SOURCES[name].stand_in] == NO_STAND_IN


def test_the_seven_without_the_hub_are_three(tmp_path: Path) -> None:
    """Each stand-in once, in the place of the first that it stands in for; every absence told, and in the manifest."""
    told: list[str] = []
    summary = ingest(config("seven"), tmp_path / "out", told.append)
    rows = summary["sources"]
    assert [(row["name"], row.get("stands_in_for")) for row in rows] == [
        ("python_stdlib", ["codeparrot"]),
        ("openbible", None),
        ("wikipedia_leads", ["tinystories", "wikitext"]),
    ]
    assert [row["name"] for row in summary["left_out"]] == NO_STAND_IN
    assert {row["domain"] for row in summary["left_out"]} == {"academic", "philosophy"}
    assert all("HF_HUB_OFFLINE" in row["why"] for row in summary["left_out"])
    absent = [line for line in told if "HF_HUB_OFFLINE" in line]
    assert [line.partition(":")[0] for line in absent] == _on_hub()
    assert sum("left out" in line for line in absent) == 3
    assert sum(line.endswith("wikipedia_leads stands in for it") for line in absent) == 2


def _on_hub() -> list[str]:
    """Of text: what is read in place of chats is for who wants chats to say."""
    return [name for name, source in SOURCES.items() if issubclass(source, HubSource) and source.form == "text"]


@pytest.mark.parametrize("specs", [("kjv", "tinystories", "starter"), ("starter", "wikitext", "tinystories", "kjv")])
def test_a_stand_in_that_is_asked_for_anyway_is_read_once(specs: tuple[str, ...], tmp_path: Path) -> None:
    """It is not read twice, and it still says for what it stands in."""
    assert sorted(names(*specs)) == ["kjv", "python_stdlib", "wikipedia_leads"]
    rows = {row["name"]: row for row in ingest(config(*specs), tmp_path / "out")["sources"]}
    assert sorted(rows["wikipedia_leads"]["stands_in_for"]) == sorted({"tinystories", "wikitext"} & set(specs))
    assert "stands_in_for" not in rows["kjv"]


def test_what_answers_is_read_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that do not answer are replaced."""
    answers(monkeypatch, "tinystories")
    settled = settle(("tinystories", "wikitext", "codeparrot"), offline_ok=True)
    assert [source.name for source in settled.sources] == ["tinystories", "wikipedia_leads", "python_stdlib"]
    assert settled.role(settled.sources[0]) == {}
    assert settled.role(settled.sources[1]) == {"stands_in_for": ["wikitext"]}


def test_the_flag_changes_nothing_where_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sources, nothing absent."""
    answers(monkeypatch, *_on_hub())
    settled = settle(("seven",), offline_ok=True)
    assert [source.name for source in settled.sources] == [source.name for source in resolve(("seven",))]
    assert settled.absent == () and settled.left_out == []


def test_a_process_goes_by_the_first_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that comes back between the key and the reading must not be read under a key that says it was not."""
    questions = answers(monkeypatch)
    wanted = config("tinystories", "codeparrot")
    before = fingerprint(wanted)
    answers(monkeypatch, "tinystories", "codeparrot")
    summary = ingest(wanted, tmp_path / "out")
    assert [row["name"] for row in summary["sources"]] == [row["name"] for row in before] == [
        "wikipedia_leads", "python_stdlib",
    ]  # fmt: skip
    assert sorted(questions) == ["codeparrot", "tinystories"]


def test_the_key_tells_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the dataset and the text that stood in for it never share an artifact."""
    stage = Ingest(config("tinystories"))
    offline = stage.key({})
    assert "nano_think.data.sources.wikipedia_leads" in stage.modules()
    stand_ins.reason.cache_clear()
    answers(monkeypatch, "tinystories")
    assert stage.key({}) != offline


def test_without_the_flag_nothing_stands_in(tmp_path: Path) -> None:
    """The default stops, and its line names the flag."""
    with pytest.raises(InputError, match=r"^tinystories .*: --offline-ok, or files of your own"):
        ingest(IngestConfig(sources=("tinystories",)), tmp_path / "out")


def test_nothing_left_to_read_is_an_error(tmp_path: Path) -> None:
    """All left out: a line for each, and exit code 3 before anything is written."""
    with pytest.raises(InputError) as caught:
        ingest(config("ml_arxiv", "stanford_plato"), tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["ml_arxiv", "stanford_plato"]
    assert lines[2].startswith("no source is left to read") and len(lines) == 3
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()


def test_a_local_copy_never_has_a_stand_in(tmp_path: Path) -> None:
    """A folder that the user names and that does not hold the dataset is a mistake, not an outage."""
    with pytest.raises(InputError, match=r"no file there matches"):
        settle((f"tinystories:{tmp_path}",), offline_ok=True)
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["One day."]}), tmp_path / "data/train-0.parquet")
    settled = settle((f"tinystories:{tmp_path}", "tinystories"), offline_ok=True)
    assert [(source.name, source.remote) for source in settled.sources] == [
        ("tinystories", False),
        ("wikipedia_leads", False),
    ]
