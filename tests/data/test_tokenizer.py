"""One vocabulary, three engines, the same ids; special tokens are never made from text; damaged files are refused."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import rustbpe
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_think.core.config import parse
from nano_think.core.errors import ArtifactError, InputError, UsageError
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.data.tokenizer_file import PATTERN, SPECIALS, merge_of, read

VOCAB = 390
# What has gone wrong somewhere: contractions, all white space, joiners, marks, halves of pairs, typed specials.
PIECES = [
    *("a", "e", "i", "s", "t", "'", "LL", "re", "1", "9", "!", ".", ",", '"', "(", ")", "\u017f"),
    *(" ", "  ", " " * 300, "\n", "\n\n\n", "\r", "\r\n", "\t"),
    *("\u00a0", "\u2028", "\x00", "\x1b", "\x7f", "\x85"),
    *("\u0301", "\u0340", "e\u0301\u0323", "\u200b", "\u200d", "\ufeff", "\ufffd", "\uffff", "\U0010ffff"),
    *("\U0001f600", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea", "\ud83d", "\ude00"),
    *("\u4f60\u597d", "\u65e5\u672c\u8a9e", "\ud55c\uae00", "\u0627\u0644", "\u0663\u0664"),
    *(*SPECIALS, "<|bos", "<|endoftext|>"),
]  # fmt: skip


def mixed() -> st.SearchStrategy[str]:
    return st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def repaired(text: str) -> str:
    """What a text with halves of surrogate pairs is read as."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def texts() -> list[str]:
    return [
        f"the cat's {number} dogs, they'll see: na\u00efve \u4f60\u597d \U0001f600\n\tx = {number}  # {oct(number**4)}"
        for number in range(200)
    ]


@cache
def trained_again() -> rustbpe.Tokenizer:
    """rustbpe's own encoder over the very merges that the folder holds."""
    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(iter(texts()), VOCAB - len(SPECIALS), pattern=PATTERN)
    return trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("three")
    train_tokenizer(TokenizerConfig(vocab_size=VOCAB), iter(texts()), out)
    return out


@pytest.fixture(scope="module")
def auto(folder: Path) -> Any:
    """The folder as somebody else loads it."""
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def agree(folder: Path, auto: Any) -> Callable[[list[str]], None]:
    ours, exported, trained = (
        Tokenizer.load(folder),
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
        trained_again(),
    )
    exported.encode_special_tokens = True

    def check(given: list[str]) -> None:
        clean = [repaired(text) for text in given]
        ids = [ours.encode(text) for text in given]
        assert ids == [one.ids for one in exported.encode_batch(clean)]
        assert ids == auto(clean, split_special_tokens=True)["input_ids"]
        assert ids == [trained.encode(text) for text in clean]
        assert ids == [ours.encode_array(text).tolist() for text in given]
        assert ids == [ours.encode_bytes(text.encode()) for text in clean]
        assert [ours.decode_bytes(one) for one in ids] == [text.encode() for text in clean]
        assert clean == [ours.decode(one) for one in ids] == exported.decode_batch(ids) == auto.batch_decode(ids)
        assert max((max(one, default=0) for one in ids), default=0) < VOCAB - len(SPECIALS)

    return check


@settings(max_examples=200, deadline=None)
@given(given=st.lists(mixed(), min_size=10, max_size=10))
def test_all_engines_give_the_same_ids(agree: Callable[[list[str]], None], given: list[str]) -> None:
    """2,000 strings."""
    agree(given)


@settings(max_examples=60, deadline=None)
@given(piece=st.sampled_from(PIECES), count=st.integers(1, 700), tail=st.sampled_from(["", "x", "\n", " "]))
def test_all_engines_agree_on_long_runs(agree: Callable[[list[str]], None], piece: str, count: int, tail: str) -> None:
    agree([piece * count + tail])


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60) | mixed().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_that_are_no_text_have_ids(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == tokenizer._engine.decode_bytes(ids) == data
    assert not set(ids) & set(tokenizer.special.values())


# The pattern as nanochat writes it, but for the bounds, the possessive quantifiers and the group.
PLAIN = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s{0,255}[\r\n]|\s{1,256}(?!\S)|\s{1,256}"
)


@pytest.fixture(scope="module")
def twin(tokenizer_folder: Path) -> tiktoken.Encoding:
    ranks = dict(read(tokenizer_folder).ranks)
    return tiktoken.Encoding("plain", pat_str=PLAIN, mergeable_ranks=ranks, special_tokens={})


@settings(max_examples=300, deadline=None)
@given(text=mixed().map(repaired))
def test_the_group_in_the_pattern_changes_no_split(tokenizer: Tokenizer, twin: tiktoken.Encoding, text: str) -> None:
    fast, plain = (tokenizers.pre_tokenizers.Split(tokenizers.Regex(one), "isolated") for one in (PATTERN, PLAIN))
    assert fast.pre_tokenize_str(text) == plain.pre_tokenize_str(text)
    assert tokenizer.encode(text) == twin.encode_ordinary(text)


def test_every_character_is_split_alike() -> None:
    """The engines' Unicode tables agree on letters, numbers and white space: over all code points."""
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for kind in (r"\p{L}", r"\p{N}", r"\s"):
        single = tiktoken.Encoding(
            "x", pat_str=kind, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
        )
        removed = tokenizers.pre_tokenizers.Split(tokenizers.Regex(kind), "removed")
        kept = "".join(text for text, _ in removed.pre_tokenize_str("".join(every)))
        matched = bytes(single.encode_ordinary("".join(every))).decode()
        assert len(matched) + len(kept) == len(every)
        assert not set(matched) & set(kept)


LONG = [
    "a",
    " ",
    "\t",
    "\u00a0",
    "\n",
    "\r\n",
    " \n",
    "!",
    "1",
    "\u0301",
    "\x00",
    "\u4f60",
    "\u4f60\u597d\u4e16\u754c",
    "\U0001f600",
    "<|bos|>",
]


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.parametrize("tail", ["", "x"])
def test_a_million_bytes_without_a_break_do_no_harm(tokenizer: Tokenizer, piece: str, tail: str) -> None:
    text = piece * (10**6 // len(piece.encode())) + tail
    assert tokenizer.decode(tokenizer.encode_array(text).tolist()) == text


@pytest.mark.parametrize("piece", LONG)
def test_all_engines_bear_text_without_a_break(agree: Callable[[list[str]], None], piece: str) -> None:
    agree([piece * (10_000 // len(piece.encode())) + "x"])


@pytest.mark.parametrize("piece", ["a", "!", "\u4f60"])
def test_training_bears_text_without_a_break(piece: str, tmp_path: Path) -> None:
    """Its tokens have up to tens of thousands of bytes."""
    train_tokenizer(TokenizerConfig(vocab_size=270), iter([piece * 65_536]), tmp_path)
    ours, exported = Tokenizer.load(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = piece * 3_001
    assert ours.encode(text) == exported.encode(text).ids
    assert ours.decode(ours.encode(text)) == text


def plain_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, ...]:
    """One merge after the other, each time looking at all: the twin of `merge_of`."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [ranks[one + two] for one, two in itertools.pairwise(parts) if one + two in ranks]
        if not found:
            break
        place = [ranks.get(one + two) for one, two in itertools.pairwise(parts)].index(min(found))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return tuple(parts)


@settings(max_examples=200, deadline=None)
@given(
    made=st.lists(st.text("abc", min_size=2, max_size=6), max_size=20, unique=True), token=st.text("abc", min_size=2)
)
def test_a_token_is_taken_apart_as_it_was_made(made: list[str], token: str) -> None:
    ranks = {text.encode(): rank for rank, text in enumerate(made, 256)}
    assert merge_of(token.encode(), ranks) == plain_merge(token.encode(), ranks)


def test_bytes_that_are_no_text_round_trip(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_bytes([0xFF, 0x00, 0xE4]) == b"\xff\x00\xe4"
    assert tokenizer.decode([0xE4, 0xBD]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert all(tokenizer.encode_array(text).tolist() == tokenizer.encode(text) for text in ("", "a\ud83db"))


def test_special_tokens_are_the_last_ids_and_never_come_from_text(tokenizer: Tokenizer) -> None:
    assert list(tokenizer.special.values()) == [415, 416, 417, 418, 419]
    assert tokenizer.vocab_size == 420
    assert tokenizer.encode_document("") == [tokenizer.bos] == [415]
    typed = "".join(tokenizer.special)
    assert not set(tokenizer.encode(typed)) & set(tokenizer.special.values())
    assert not set(tokenizer.encode_array(typed).tolist()) & set(tokenizer.special.values())
    assert tokenizer.decode(tokenizer.encode(typed)) == typed
    assert tokenizer.decode([tokenizer.bos]) == "<|bos|>"


def test_a_batch_is_its_texts(tokenizer: Tokenizer) -> None:
    expected = [tokenizer.encode(text) for text in texts()]
    assert tokenizer.encode_batch(texts(), threads=2) == tokenizer.encode_batch(texts()) == expected


ODD = [
    "",
    " ",
    "\n\n  ",
    "x \t",
    "a\ud83d",
    "\ude00b",
    "\ud83d\ude00",
    "<|bos|>",
    "a<|bos|",
    "bos|>",
    "<|",
    "<|user_end|>",
]


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.sampled_from(ODD) | st.text(max_size=20) | st.lists(st.sampled_from(PIECES)).map("".join)))
def test_many_texts_in_one_call_are_each_by_itself(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, lengths = tokenizer.encode_many(texts)
    each = [tokenizer.encode_document(text) for text in texts]
    assert (ids.dtype, lengths.dtype) == ("uint32", "int64")
    assert lengths.tolist() == list(map(len, each))
    assert ids.tolist() == [token for row in each for token in row]
    plain, sizes = tokenizer._encode_each(texts)
    assert (plain.dtype, sizes.dtype, plain.tolist(), sizes.tolist()) == (
        "uint32",
        "int64",
        ids.tolist(),
        lengths.tolist(),
    )


@pytest.mark.parametrize("typed", [*SPECIALS, "".join(SPECIALS)])
def test_a_special_token_typed_among_many_texts_stays_text(tokenizer: Tokenizer, typed: str) -> None:
    ids, lengths = tokenizer.encode_many(["a", typed, f"b{typed}c", ""])
    assert [place for place, token in enumerate(ids) if token in tokenizer.special.values()] == [
        0, *lengths.cumsum()[:-1]
    ]  # fmt: skip
    assert tokenizer.decode(ids.tolist()) == f"<|bos|>a<|bos|>{typed}<|bos|>b{typed}c<|bos|>"


def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(IndexError):
            tokenizer.token_bytes(token)


def test_training_is_deterministic_and_its_summary_counts(folder: Path, tmp_path: Path) -> None:
    summary = train_tokenizer(TokenizerConfig(vocab_size=VOCAB), iter(texts()), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (summary["vocab_size"], summary["merges"], summary["documents"]) == (VOCAB, VOCAB - 256 - 5, 200)
    assert summary["bytes"] == sum(len(text.encode()) for text in texts())


def test_training_reads_no_more_than_its_limit(tmp_path: Path) -> None:
    summary = train_tokenizer(TokenizerConfig(vocab_size=280, max_train_bytes=1000), iter(texts()), tmp_path)
    assert 900 < summary["bytes"] <= 1000


@pytest.mark.parametrize("given", [[], [""], ["abc abc"]])
def test_too_little_text_says_what_to_lower(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"yields \d+ tokens, not 4096: lower the tokenizer's vocab_size to at most \d+"
    ):
        train_tokenizer(TokenizerConfig(), iter(given), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_vocabulary_must_have_room() -> None:
    for size in (0, 261, 2**20 + 1):
        with pytest.raises(UsageError, match=f"vocab_size: wanted 262 to 1048576, got {size}"):
            parse(TokenizerConfig, {"vocab_size": size}, "test")


def edit(change: Callable[[dict], Any]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        values = json.loads(content)
        change(values)
        return json.dumps(values).encode()

    return apply


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "array": lambda content: b"[1, 2]",
    "very deep": lambda content: b"[" * 100_000,
    "hostile pattern": edit(lambda v: v["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="(a+)+$")),
    "no vocabulary": edit(lambda v: v["model"].pop("vocab")),
    "byte missing": edit(lambda v: v["model"]["vocab"].update({"zzz": v["model"]["vocab"].pop("a")})),
    "gap in the ids": edit(lambda v: v["model"]["vocab"].update(a=10**9)),
    "id of a string": edit(lambda v: v["model"]["vocab"].update(a="x")),
    "letter of no byte": edit(lambda v: v["model"]["vocab"].update({"\u4f60": 9999})),
    "special missing": edit(lambda v: v["added_tokens"].pop()),
    "special of another id": edit(lambda v: v["added_tokens"][0].update(id=3)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(DAMAGE[name]((folder / "tokenizer.json").read_bytes()))
    with pytest.raises(ArtifactError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "run the tokenizer stage again" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: missing; run the tokenizer stage again"):
        Tokenizer.load(tmp_path)


def test_a_panic_of_an_engine_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3's, which `except Exception` does not stop."""

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(tiktoken, "Encoding", panic)
    with pytest.raises(ArtifactError, match="refused by the engine"):
        Tokenizer.load(folder)
