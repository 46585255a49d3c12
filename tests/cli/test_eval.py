"""`nano-think eval`: the figures of a user's own text."""

import gzip
import json
import shutil

import pytest

from nano_think.experts import EXPERTS

KEYS = {"bits_per_byte", "experts", "uniform", "dense", "memory", "calibrated", "domains", "documents", "bytes"}
VERSE = "And God said, Let there be light: and there was light. Ätsch! 漢字 "
TEXTS = {"bible": [VERSE * 3, "In the beginning."], "code": ["def main():\n    return 1\n" * 5]}


@pytest.fixture
def files(tmp_path):
    """A folder per domain; one of the files is compressed."""
    places = []
    for domain, texts in TEXTS.items():
        (tmp_path / domain).mkdir()
        rows = "".join(json.dumps({"text": text, "source": "s", "id": str(n)}) + "\n" for n, text in enumerate(texts))
        place = tmp_path / domain / ("x.jsonl" if domain == "bible" else "x.jsonl.gz")
        place.write_bytes(rows.encode() if domain == "bible" else gzip.compress(rows.encode()))
        places.append(place)
    return places


@pytest.fixture
def figures(nano_run, files, say):
    told = say("eval", "--model", "latest", "--data", *files, "--json", "--root", nano_run.root)
    assert told.code == 0, told.err
    return told.json


def test_keys_are_those_of_the_contract(figures):
    """Exactly the agreed keys, in every part."""
    assert figures.keys() == KEYS
    assert figures["experts"].keys() == EXPERTS.keys() == {"transformer", "diffuser", "state_space"}
    assert figures["dense"] > 0 and figures["domains"]["bible"]["dense"] > 0
    assert figures["calibrated"].keys() == {"bits_per_byte", "experts", "uniform", "dense"}
    assert figures["calibrated"]["experts"].keys() == figures["experts"].keys()
    assert figures["memory"].keys() == {"scratch", "persistent"}
    for memory in figures["memory"].values():
        assert memory.keys() == {"mixture", "dense", "shuffled"}
        assert memory["dense"] is None


def test_bytes_are_raw_utf8_of_all_files(figures):
    """Bytes of the text as it stands in the files, over several files, plain and compressed."""
    sizes = {domain: sum(len(text.encode()) for text in texts) for domain, texts in TEXTS.items()}
    assert figures["bytes"] == sum(sizes.values())
    assert figures["documents"] == 3
    assert {domain: part["bytes"] for domain, part in figures["domains"].items()} == sizes


def test_whole_is_the_mean_of_the_domains_by_bytes(figures):
    """Bits per byte add up."""
    for value in (lambda part: part["bits_per_byte"], lambda part: part["experts"]["diffuser"]):
        parts = [value(part) * part["bytes"] for part in figures["domains"].values()]
        assert value(figures) == pytest.approx(sum(parts) / figures["bytes"])


def test_figures_do_not_depend_on_the_order_of_the_files(figures, nano_run, files, say):
    """Documents are scored each on its own."""
    told = say("eval", "--data", *reversed(files), "--json", "--no-memory", "--root", nano_run.root)
    assert told.json["bits_per_byte"] == pytest.approx(figures["bits_per_byte"], rel=1e-6)


def test_without_memory_the_memory_is_null(nano_run, files, say):
    """--no-memory is quicker, and says that nothing was measured."""
    told = say("eval", "--data", *files, "--json", "--no-memory", "--root", nano_run.root)
    assert told.code == 0, told.err
    assert told.json["memory"] is None and told.json.keys() == KEYS


def test_model_folder_alone_has_no_control(nano_run, files, say, tmp_path):
    """The control and the calibrations are other artifacts of the run: without them both are null."""
    folder = shutil.copytree(nano_run.folder("router"), tmp_path / "router" / "model")
    told = say("eval", "--model", folder, "--data", *files, "--json")
    assert told.code == 0, told.err
    assert told.json["dense"] is None and told.json["calibrated"] is None and told.json.keys() == KEYS


def test_table_shows_every_domain_and_scorer(nano_run, files, say):
    """Without --json there is a table."""
    told = say("eval", "--data", *files, "--root", nano_run.root)
    assert told.code == 0, told.err
    assert all(word in told.out for word in ("bible", "code", "all", "mixture", "dense", "calibrated", "memory"))
