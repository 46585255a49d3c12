"""`nano-think data preview`: which documents are drawn, and that their text is shown as it is."""

import io
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nano_think.cli.data.preview import MOST_LINES, draw, fetch, panel, shortened
from nano_think.core.console import spelled
from nano_think.core.errors import UsageError
from nano_think.data.clean import SPLITS
from nano_think.data.document import Document
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.shards import read_documents
from nano_think.data.tokenizer import Tokenizer

TITLE = re.compile(r"^[╭┌]─ (.*?) ─*[╮┐]$", re.MULTILINE)


@pytest.fixture
def folder(files, tmp_path):
    ingest(IngestConfig(sources=(files,)), tmp_path / "documents")
    return tmp_path / "documents"


def shown(document: Document, chars: int = 1200, tokenizer: Tokenizer | None = None) -> str:
    """What stands in the frame of a document."""
    console = Console(markup=False, highlight=False, emoji=False, width=4000, file=io.StringIO())
    console.print(panel(document, "train", chars, tokenizer, 4000))
    lines = console.file.getvalue().splitlines()[1:-1]
    return "\n".join(line[2:-2].rstrip(" ") for line in lines)


def test_the_domains_take_turns_and_a_seed_is_kept_to(files, say):
    """Three documents of two domains; another seed draws others."""
    first = say("data", "preview", "--sources", files, "--n", 3, "--seed", 1)
    assert first.code == 0, first.err
    assert [title.split(" · ")[0] for title in TITLE.findall(first.out)] == ["code", "poems", "code"]
    assert say("data", "preview", "--sources", files, "--n", 3, "--seed", 1).out == first.out
    assert say("data", "preview", "--sources", files, "--n", 3, "--seed", 2).out != first.out


@pytest.mark.parametrize("split", ["train", "test"])
def test_domain_and_split_are_kept_to(files, say, folder, split):
    """And no more is shown than there is."""
    told = say("data", "preview", "--sources", files, "--n", 99, "--domain", "poems", "--split", split)
    there = [one.id for one in read_documents(folder, split) if one.domain == "poems"]
    assert sorted(title.split(" · ")[2] for title in TITLE.findall(told.out)) == sorted(there)
    assert told.out.count(f" {split} · ") == len(there) > 0


def test_documents_are_drawn_without_preference(folder):
    """Every document of a domain comes first under some seeds, whatever its place."""
    first = Counter(fetch(draw(folder, 1, SPLITS, "poems", seed)[0]).id for seed in range(900))
    assert len(first) == 60 and max(first.values()) < 45


def test_what_is_drawn_is_whole_and_different(folder):
    """All documents, each once, when as many are asked for; each in the split that it is said to be in."""
    places = draw(folder, 1000, SPLITS, None, 0)
    drawn = [(place.split, fetch(place)) for place in places]
    everything = [(split, document) for split in SPLITS for document in read_documents(folder, split)]
    assert len(drawn) == len(everything) == 120
    assert all(one in everything for one in drawn)
    assert len({(one.domain, one.id) for _, one in drawn}) == 120


def test_unknown_domain_is_told_with_the_nearest(files, say, folder):
    """Exit 2."""
    told = say("data", "preview", "--sources", files, "--domain", "poem")
    assert told.code == 2 and "Did you mean 'poems'?" in told.err
    with pytest.raises(UsageError):
        draw(folder, 1, SPLITS, "", 0)


@pytest.mark.parametrize(
    "arguments", [["--n", 0], ["--chars", 0], ["--seed", -1], ["--split", "tests"], ["--tokens", "--sources", "kjv"]]
)
def test_flags_that_cannot_be_used_are_told(say, arguments):
    """Exit 2 in one line."""
    told = say("data", "preview", *arguments)
    assert told.code == 2 and arguments[0] in told.err, told.err
    assert told.err.splitlines()[-1].startswith("nano-think: error:")


def test_text_is_text(say, tmp_path):
    """No markup, no emoji names, no terminal sequence out of a text or an id; what would not show is spelled out."""
    (tmp_path / "x").mkdir()
    row = {"text": "a [bold]b[/bold] :smile: \u202ec\u200b\td\u00ad 👩\u200d🚀", "id": "\x1b]0;title\x07[red]"}
    (tmp_path / "x/x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    told = say("data", "preview", "--sources", f"jsonl:{tmp_path}/x/x.jsonl")
    assert told.code == 0, told.err
    assert "a [bold]b[/bold] :smile: <U+202E>c<U+200B>␉   d<U+00AD> 👩\u200d🚀" in told.out
    assert "␛]0;title␇[red]" in told.out
    assert not set("\x1b\x07\u202e\u200b") & set(told.out)


@given(st.text(alphabet=st.characters()))
def test_what_is_spelled_out_steers_no_terminal(text):
    """No control and no direction mark is left, and what is not spelled out is the text itself."""
    seen = list(spelled(text))
    assert len(seen) == len(text)
    assert [one for one, is_spelled in seen if not is_spelled] == [
        one for one, (_, is_spelled) in zip(text, seen, strict=True) if not is_spelled
    ]
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", "".join(one for one, _ in seen)
    )


@given(st.text(alphabet="ab\n", max_size=300), st.integers(1, 120))
def test_long_texts_are_shown_from_both_ends(text, chars):
    """What is said to be left out is what is left out; neither too many lines nor too many characters are shown."""
    head, left_out, tail = shortened(text, chars)
    assert text.startswith(head) and text.endswith(tail)
    assert len(head) + left_out + len(tail) == len(text)
    assert len(head) + len(tail) <= chars
    assert (head + tail).count("\n") < MOST_LINES
    assert left_out or head == text


@pytest.mark.parametrize("chars", [1, 40, 400])
def test_tokens_are_those_of_the_tokenizer(nano_run, chars):
    """Between two seams stands a token, bytes that are no character in hexadecimal; those left out are counted."""
    tokenizer = Tokenizer.load(nano_run.folder("tokenizer"))
    text = "In the beginning, 漢字 and\nmore of it. " * 9
    body = shown(Document(text, "s", "i", "d"), chars, tokenizer)
    ids = tokenizer.encode(text)
    expected = []
    for token in ids:
        piece = tokenizer.token_bytes(token)
        try:
            expected.append(piece.decode().replace("\n", "↵\n"))
        except UnicodeDecodeError:
            expected.append(f"<{piece.hex(' ')}>")
    left_out = re.search(r"^⋯ (\d+) tokens are not shown ⋯\n?", body, re.MULTILINE)
    ends = body.split(left_out[0]) if left_out else [body]
    first, last = ends[0].rstrip("\n").split("│"), ends[1].split("│") if len(ends) > 1 and ends[1] else []
    assert [piece.strip() for piece in first] == [piece.strip() for piece in expected[: len(first)]]
    assert [piece.strip() for piece in last] == [piece.strip() for piece in expected[len(expected) - len(last) :]]
    assert len(first) + len(last) + int(left_out[1] if left_out else 0) == len(ids)


def test_tokens_of_a_run_are_shown(nano_run, say):
    """By the tokenizer that was trained on the text; sizes stand in the frame."""
    told = say("data", "preview", "--root", nano_run.root, "--tokens", "--n", 3)
    assert told.code == 0, told.err
    assert "│" in told.out and len(re.findall(r"[\d,]+ bytes · [\d,]+ tokens", told.out)) == 3


def test_a_terminal_that_knows_only_ascii_is_no_error(files, commands, monkeypatch):
    """Question marks, not a traceback."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = commands("data", "preview", "--sources", files, "--n", 2)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "def f" in done.stdout
