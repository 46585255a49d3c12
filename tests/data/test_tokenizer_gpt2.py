"""GPT-2's vocabulary from its files, on a small one of the same form: the same ids, and no damage goes unnoticed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import rustbpe
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_think.core.errors import InputError
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, adopt_gpt2
from nano_think.data.tokenizer_file import GPT2_PATTERN, byte_letters, letters, merge_of
from nano_think.data.tokenizer_gpt2 import gpt2_digests, read_gpt2
from nano_think.stages.stage import Context
from nano_think.stages.tokenizer import TrainTokenizer

SIZE = 340
UNBOUNDED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# OpenAI's order: the printable bytes first.
ORDER = sorted(range(256), key=lambda byte: (ord(byte_letters()[byte]) > 255, byte))


def small() -> tuple[dict[str, int], list[str]]:
    """(vocab, merges) as GPT-2's files have them: bytes in their order, merges, `<|endoftext|>`."""
    trainer = rustbpe.Tokenizer()
    texts = (
        f"the cat's {number} dogs they'll see   na\u00efve \u4f60\u597d = {oct(number**4)}" for number in range(200)
    )
    trainer.train_from_iterator(texts, SIZE - 1, pattern=UNBOUNDED)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    made = [token for token in ranks if len(token) > 1]
    names = [*(byte_letters()[byte] for byte in ORDER), *map(letters, made), "<|endoftext|>"]
    return {name: rank for rank, name in enumerate(names)}, [
        " ".join(map(letters, merge_of(token, ranks))) for token in made
    ]


def write_files(folder: Path, form: str = "vocab.json") -> Path:
    vocab, merges = small()
    folder.mkdir(exist_ok=True)
    listed = "\n".join(["#version: 0.2", *merges, ""])
    if form == "tokenizer.json":
        split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        values = {"normalizer": None, "pre_tokenizer": split, "model": {"vocab": vocab, "merges": merges}}
        (folder / form).write_text(json.dumps(values), encoding="utf-8")
    else:
        (folder / form).write_text(json.dumps(vocab), encoding="utf-8")
        other = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}[form]
        (folder / other).write_text(listed, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    adopt_gpt2(files, out)
    return out


@pytest.fixture(scope="module")
def agree(files: Path, made: Path) -> Callable[[list[str]], None]:
    """Ours, our tokenizer.json, and the files themselves in the class that `tokenizers` has for them."""
    ours, exported = Tokenizer.load(made), tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))
    exported.encode_special_tokens = True
    theirs = tokenizers.ByteLevelBPETokenizer(str(files / "vocab.json"), str(files / "merges.txt"))

    def check(given: list[str]) -> None:
        ids = [ours.encode(text) for text in given]
        assert ids == [one.ids for one in exported.encode_batch(given)]
        assert ids == [one.ids for one in theirs.encode_batch(given)]
        assert given == [ours.decode(one) for one in ids]
        flat, lengths = ours.encode_many(given)
        assert flat.tolist() == [token for one in ids for token in (ours.bos, *one)]
        assert lengths.tolist() == [len(one) + 1 for one in ids]

    return check


PIECES = [
    *"aest 19!.'\n\t\u00a0\x00\u0301",
    "  ",
    " " * 40,
    "'ll",
    "\r\n",
    "\U0001f600",
    "\u4f60\u597d",
    "<|endoftext|>",
]


@settings(max_examples=60, deadline=None)
@given(given=st.lists(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join), max_size=10))
def test_the_ids_are_those_of_the_files(agree: Callable[[list[str]], None], given: list[str]) -> None:
    agree(given)


def pieces(pattern: str, text: str) -> list[str]:
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("run", [" ", "\n", "\u00a0", " \t"])
def test_white_space_is_cut_at_256(agree: Callable[[list[str]], None], made: Path, run: str) -> None:
    """The one deviation: GPT-2 takes longer runs as one piece."""
    for text in (run * (256 // len(run)), run * (256 // len(run)) + "x", "a" + run * (254 // len(run)) + " !x"):
        assert pieces(GPT2_PATTERN, text) == pieces(UNBOUNDED, text)
        agree([text])
    assert pieces(GPT2_PATTERN, run * 257) != pieces(UNBOUNDED, run * 257)
    ours = Tokenizer.load(made)
    assert ours.decode(ours.encode(run * 1000 + "x")) == run * 1000 + "x"


def test_the_start_token_is_the_end_of_text_and_ours_follow(made: Path) -> None:
    ours = Tokenizer.load(made)
    assert next(iter(ours.special)) == "<|endoftext|>"
    assert list(ours.special.values()) == list(range(SIZE - 1, SIZE + 4))
    assert (ours.vocab_size, ours.encode_document("")) == (SIZE + 4, [SIZE - 1])
    assert ours.decode([ours.bos]) == "<|endoftext|>"
    assert ours.encode_bytes(b"\xff!") == [ORDER.index(0xFF), 0]


def test_somebody_else_loads_it_and_chats(made: Path) -> None:
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(made)
    ours = Tokenizer.load(made)
    assert auto.bos_token_id == ours.bos
    talk = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees"}]
    assert auto.apply_chat_template(talk)["input_ids"] == ours.encode_chat(talk)[0]


@pytest.mark.parametrize("form", ["encoder.json", "tokenizer.json"])
def test_every_form_is_the_same_vocabulary(form: str, files: Path, tmp_path: Path) -> None:
    assert read_gpt2(write_files(tmp_path, form)) == read_gpt2(files)


def test_lines_may_end_as_on_windows(files: Path, tmp_path: Path) -> None:
    merges = (write_files(tmp_path) / "merges.txt").read_bytes()
    (tmp_path / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    assert read_gpt2(tmp_path) == read_gpt2(files)


def test_the_stage_takes_the_files_and_its_key_follows_them(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "gpt2")
    stage = TrainTokenizer(TokenizerConfig(gpt2=folder))
    summary = stage.build({}, tmp_path / "out", Context())
    assert (summary["vocab_size"], summary["merges"]) == (SIZE + 4, SIZE - 257)
    assert Tokenizer.load(tmp_path / "out").special == summary["special"]
    before = stage.key({})
    assert stage.fingerprint().keys() == {"vocab.json", "merges.txt"}
    (folder / "merges.txt").write_bytes((folder / "merges.txt").read_bytes() + b"\n")
    assert stage.key({}) != before
    assert TrainTokenizer(TokenizerConfig()).fingerprint() is None


def lines(change: Callable[[list[str]], object]) -> Callable[[str], str]:
    def apply(content: str) -> str:
        rows = content.split("\n")
        change(rows)
        return "\n".join(rows)

    return apply


def values(change: Callable[[dict[str, int]], object]) -> Callable[[str], str]:
    def apply(content: str) -> str:
        found = json.loads(content)
        change(found)
        return json.dumps(found)

    return apply


def swap(rows: list[str]) -> None:
    rows[4], rows[5] = rows[5], rows[4]


def swap_halves(rows: list[str]) -> None:
    """Another way to put a token together, of tokens that are known by then."""
    known = set(byte_letters())
    for number, row in enumerate(rows[1:-1], 1):
        token = row.replace(" ", "")
        others = [f"{token[:cut]} {token[cut:]}" for cut in range(1, len(token)) if {token[:cut], token[cut:]} <= known]
        if set(others) - {row}:
            rows[number] = next(iter(set(others) - {row}))
            return
        known.add(token)
    raise AssertionError("no token that could be made in two ways")


DAMAGE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "cut": ("vocab.json", lambda text: text[:500], "vocab.json:1: not readable as JSON"),
    "deep": ("vocab.json", lambda text: "[" * 100_000, "vocab.json: not readable as JSON"),
    "array": ("vocab.json", lambda text: "[1]", "vocab.json: wanted an object of tokens and their ids, got list"),
    "byte gone": ("vocab.json", values(lambda v: v.pop("a")), "from 0 to 255 for 'a' (byte 97), got None"),
    "byte twice": ("vocab.json", values(lambda v: v.update(a=v["b"])), "an id of its own for each of the 256 bytes"),
    "id of a string": ("vocab.json", values(lambda v: v.update(a="x")), "for 'a' (byte 97), got 'x'"),
    "no end of text": ("vocab.json", values(lambda v: v.pop("<|endoftext|>")), "<|endoftext|> being None"),
    "one more": ("vocab.json", values(lambda v: v.update(zzz=SIZE)), f"wanted {SIZE} tokens"),
    "merges cut": (
        "merges.txt",
        lines(lambda rows: rows.__delitem__(slice(40, None))),
        "vocab.json: wanted 296 tokens",
    ),
    "swapped": ("merges.txt", lines(swap), "merges.txt:5: "),
    "no pair": ("merges.txt", lines(lambda rows: rows.__setitem__(7, "a")), "merges.txt:8: wanted two tokens"),
    "three": ("merges.txt", lines(lambda rows: rows.__setitem__(7, "a b c")), "merges.txt:8: wanted two tokens"),
    "halves that never meet": ("merges.txt", lines(swap_halves), "wanted a merge of two tokens"),
    "other halves": ("merges.txt", lambda text: text.replace("\nt he\n", "\nth e\n"), "wanted a merge of two tokens"),
    "foreign letter": ("merges.txt", lines(lambda rows: rows.__setitem__(7, "\u4f60 a")), "merges.txt:8: '\u4f60 a'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    file, change, wanted = DAMAGE[name]
    path = write_files(tmp_path) / file
    before = path.read_text(encoding="utf-8")
    path.write_text(change(before), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    with pytest.raises(InputError, match=re.escape(wanted)) as caught:
        read_gpt2(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (write_files(tmp_path) / "merges.txt").write_bytes(b"#version\n\xff")
    with pytest.raises(InputError, match=r"merges\.txt: not UTF-8 at byte 9"):
        read_gpt2(tmp_path)


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    for ask in (read_gpt2, gpt2_digests):
        with pytest.raises(InputError, match=r"wanted a folder with vocab\.json and merges\.txt, or encoder\.json and"):
            ask(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("no model", lambda v: v.pop("model")),
        ("another split", lambda v: v["pre_tokenizer"].update(type="Whitespace")),
        ("a space before", lambda v: v["pre_tokenizer"].update(add_prefix_space=True)),
        ("a normaliser", lambda v: v.update(normalizer={"type": "NFC"})),
        ("merges of numbers", lambda v: v["model"].update(merges=[[1, 2]])),
    ],
)
def test_another_kind_of_tokenizer_json_is_refused(name: str, change: Callable[[dict], object], tmp_path: Path) -> None:
    path = write_files(tmp_path, "tokenizer.json") / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"tokenizer\.json: (wanted GPT-2's tokenizer\.json|merge 1: wanted two tokens)"
    ):
        read_gpt2(tmp_path)
