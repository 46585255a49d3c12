"""GPT-2's vocabulary from the files in which it is published, every number of theirs checked against the others.

The files are the user's own, in one of three forms: vocab.json and merges.txt (Hugging Face), encoder.json and
vocab.bpe (OpenAI, the same content), or tokenizer.json (the `tokenizers` library). A vocabulary of any size is read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano_think.core.errors import InputError
from nano_think.core.files import sha256
from nano_think.data.tokenizer_file import (
    GPT2_BOS,
    MAX_FILE_BYTES,
    Vocabulary,
    byte_letters,
    byte_of,
    merge_of,
)

FORMS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("tokenizer.json",))
# How `tokenizers` names GPT-2's way of splitting.
SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def gpt2_files(folder: Path) -> list[Path]:
    """The files of the first form that is there; `InputError` when none is."""
    for form in FORMS:
        files = [folder.expanduser() / name for name in form]
        if all(file.is_file() for file in files):
            return files
    forms = ", or ".join(" and ".join(form) for form in FORMS)
    raise InputError(f"{folder}: wanted a folder with {forms}, got none of them; say where GPT-2's files are")


def gpt2_digests(folder: Path) -> dict[str, str]:
    """File name -> sha256: what the vocabulary depends on."""
    try:
        return {file.name: sha256(file) for file in gpt2_files(folder)}
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None


def read_gpt2(folder: Path) -> Vocabulary:
    """The vocabulary, `<|endoftext|>` being its start token; `InputError` for damaged files and for files that do not
    belong together.

    The ids 0 to 255 are the bytes in any order, each merge has the next id, and `<|endoftext|>` has the last.
    """
    path, *others = gpt2_files(folder)
    values = _json(path)
    if others:
        vocab, merges = values, _lines(others[0])
    else:
        vocab, merges = _vocab_of(path, values), _entries(path, values["model"])
    if not isinstance(vocab, dict):
        raise InputError(f"{path}: wanted an object of tokens and their ids, got {type(vocab).__name__}")
    ranks = _byte_ranks(path, vocab)
    for where, left, right in merges:
        _add_merge(where, left, right, ranks, vocab)
    if vocab.get(GPT2_BOS) != len(ranks) or len(vocab) != len(ranks) + 1:
        raise InputError(
            f"{path}: wanted {len(ranks) + 1:,} tokens, as many as the merges make, the last one {GPT2_BOS}, "
            f"got {len(vocab):,}, {GPT2_BOS} being {vocab.get(GPT2_BOS)!r}; take both from one download"
        )
    return Vocabulary(ranks, GPT2_BOS)


def _byte_ranks(path: Path, vocab: dict[str, Any]) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for byte, letter in enumerate(byte_letters()):
        rank = vocab.get(letter)
        if type(rank) is not int or not 0 <= rank < 256:
            raise InputError(f"{path}: wanted an id from 0 to 255 for '{letter}' (byte {byte}), got {rank!r}")
        ranks[bytes([byte])] = rank
    if len(set(ranks.values())) < 256:
        raise InputError(f"{path}: wanted an id of its own for each of the 256 bytes; get the file again")
    return ranks


def _add_merge(where: str, left: str, right: str, ranks: dict[bytes, int], vocab: dict[str, Any]) -> None:
    """Give the merged token the next id, if that is what the vocabulary says and if the merge can come about."""
    if vocab.get(left + right) != len(ranks) or type(vocab[left + right]) is not int:
        got = vocab.get(left + right)
        raise InputError(
            f"{where}: '{left} {right}' makes '{left + right}', wanted its id to be {len(ranks)}, got {got!r}; "
            "take both files from one download"
        )
    halves = _bytes(left), _bytes(right)
    token = b"".join(halves)
    if not all(half in ranks for half in halves) or merge_of(token, ranks) != halves:
        raise InputError(f"{where}: wanted a merge of two tokens that the lines before leave, got '{left} {right}'")
    ranks[token] = len(ranks)


def _bytes(token: str) -> bytes:
    """The bytes of a token's letters; a letter of no byte gives bytes that are no token."""
    try:
        return bytes(byte_of()[letter] for letter in token)
    except KeyError:
        return b""


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(FILE:LINE, left, right) of merges.txt: two tokens a line, after a line that tells the version."""
    for number, line in enumerate(_text(path).rstrip().split("\n"), 1):
        parts = line.rstrip("\r").split(" ")
        if number == 1 and line.startswith("#version"):
            continue
        if len(parts) != 2:
            raise InputError(f"{path}:{number}: wanted two tokens with a space between, got {line[:80]!r}")
        yield f"{path}:{number}", parts[0], parts[1]


def _vocab_of(path: Path, values: Any) -> Any:
    """The vocabulary of a tokenizer.json that splits as GPT-2 does."""
    try:
        model, split, changes = values["model"], values["pre_tokenizer"], values.get("normalizer")
        found = {name: (split | {"use_regex": split.get("use_regex", True)}).get(name) for name in SPLIT}
        vocab, merges = model["vocab"], model["merges"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: wanted GPT-2's tokenizer.json, a part is missing ({error!r})") from None
    if found != SPLIT or changes is not None or not isinstance(merges, list):
        raise InputError(f"{path}: wanted GPT-2's tokenizer.json, which splits by {SPLIT}, got {found}")
    return vocab


def _entries(path: Path, model: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """As `_lines`, of tokenizer.json, where a merge is "left right" or [left, right]."""
    for number, entry in enumerate(model["merges"], 1):
        parts = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise InputError(f"{path}: merge {number}: wanted two tokens, got {entry!r}")
        yield f"{path}: merge {number}", parts[0], parts[1]


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not readable as JSON ({error.msg}); get the file again") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); get the file again") from None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: wanted at most {MAX_FILE_BYTES} bytes; this is no vocabulary of GPT-2")
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; get the file again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
