"""tokenizer.json and tokenizer_config.json: a vocabulary in the form that `tokenizers` and transformers read, and back.

What is read is checked as a stranger's file: sizes are capped, and the split pattern is one of ours, never the file's
own, because a hostile one can hang or crash an engine.
"""

import functools
import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import write_json, write_text
from nano_think.data.tokenizer_chat import ASSISTANT, ASSISTANT_END, CHAT, USER, USER_END, template

FILE = "tokenizer.json"
MAX_FILE_BYTES = 256 * 2**20

# nanochat's variant of the GPT-4 pattern (words, one or two digits, punctuation, white space), without its possessive
# quantifiers, which cost a third of the speed and change no match, and with runs of white space cut at 256: unbounded
# ones overflow the stack of tiktoken's engine. All but what looks ahead is one group, which the engine then matches by
# automaton in one go instead of by one alternative after the other: a half faster. tiktoken, rustbpe and tokenizers
# split every string alike with it.
PATTERN = (
    r"(?:'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s{0,255}[\r\n])|\s{1,256}(?!\S)|\s{1,256}"
)
# GPT-2's, with its runs of white space cut at 256 for the same reason: only in longer runs do ids differ from GPT-2's.
GPT2_PATTERN = r"(?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s{1,256}(?!\S)|\s{1,256}"

BOS, GPT2_BOS = "<|bos|>", "<|endoftext|>"
SPECIALS = (BOS, *CHAT)
# A vocabulary's start token tells which split pattern belongs to it: a file may name one of these and no other.
PATTERNS = {BOS: PATTERN, GPT2_BOS: GPT2_PATTERN}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What all engines are built from. The special tokens are the ids after the last token of text."""

    ranks: Mapping[bytes, int]
    """Token bytes -> id, without gaps from 0; of two possible merges the one with the lower id is made first."""
    start: str = BOS
    """The token that opens every document: a key of `PATTERNS`."""

    @property
    def pattern(self) -> str:
        """The regular expression that cuts a text into the pieces within which tokens are merged."""
        return PATTERNS[self.start]

    @property
    def special(self) -> dict[str, int]:
        """Name -> id, the start token first."""
        return {name: len(self.ranks) + place for place, name in enumerate((self.start, *CHAT))}


@functools.cache
def byte_letters() -> tuple[str, ...]:
    """GPT-2's printable letter for each byte: printable ones stand for themselves, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(rest)) for byte in range(256))


@functools.cache
def byte_of() -> dict[str, int]:
    """The byte of each letter."""
    return {letter: byte for byte, letter in enumerate(byte_letters())}


def letters(token: bytes) -> str:
    """A token as tokenizer.json writes it."""
    return "".join(byte_letters()[byte] for byte in token)


def merge_of(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The two tokens whose merge made `token`: what is left of its bytes after every earlier merge.

    O(n log n) merges for n bytes, since text of one letter gives tokens of many thousands of them. More than two parts
    are left of a token that no merge can make.
    """
    size = len(token)
    stop, before = list(range(1, size + 1)), list(range(-1, size))  # of the part that starts at each byte
    waiting: list[tuple[int, int, int, int]] = []

    def consider(start: int) -> None:
        """Queue the merge of the part at `start` with the one after it, if it makes a token."""
        middle = stop[start] if start >= 0 else size
        if middle < size and (rank := ranks.get(token[start : stop[middle]])) is not None:
            heapq.heappush(waiting, (rank, start, middle, stop[middle]))

    for start in range(size):
        consider(start)
    parts = size
    while parts > 2 and waiting:
        _, start, middle, end = heapq.heappop(waiting)
        if stop[start] != middle or stop[middle] != end:
            continue  # one of the two has been merged with another since
        stop[start], stop[middle] = end, 0
        if end < size:
            before[end] = start
        parts -= 1
        consider(before[start])
        consider(start)
    starts = [start for start in range(size) if stop[start]]
    return tuple(token[start : stop[start]] for start in starts)


def write(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    ranks = vocabulary.ranks
    merges = [merge_of(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    assert all(len(halves) == 2 and ranks.keys() >= {*halves} for halves in merges), "a token that no merge can make"
    model = models.BPE(
        vocab={letters(token): rank for token, rank in ranks.items()},
        merges=[(letters(left), letters(right)) for left, right in merges],
    )
    exported = Tokenizer(model)
    exported.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(vocabulary.pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    exported.decoder = decoders.ByteLevel()
    exported.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in vocabulary.special])
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, exported.to_str(pretty=True) + "\n")
        write_json(folder / "tokenizer_config.json", _transformers_config(vocabulary.start))


def _transformers_config(start: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": ASSISTANT_END,
        "pad_token": ASSISTANT_END,
        "additional_special_tokens": [USER, USER_END, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "chat_template": template(start),
    }


def read(folder: Path) -> Vocabulary:
    """The vocabulary in our own tokenizer.json; `ArtifactError` for anything else."""
    path = folder / FILE
    values = _json(path)
    try:
        pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        vocab, added = values["model"]["vocab"], values["added_tokens"]
        ranks = {bytes(byte_of()[letter] for letter in token): int(rank) for token, rank in vocab.items()}
        special = {str(token["content"]): int(token["id"]) for token in added}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a part is missing or of the wrong type ({error!r})") from None
    start = next((start for start, known in PATTERNS.items() if known == pattern), None)
    if start is None:
        raise _damaged(path, "its split pattern is not one of nano_think's")
    if sorted(ranks.values()) != list(range(len(vocab))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise _damaged(path, "its ids have gaps or bytes are missing")
    if special != Vocabulary(ranks, start).special:
        raise _damaged(path, "its special tokens are not nano_think's")
    return Vocabulary(ranks, start)


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _damaged(path, f"larger than {MAX_FILE_BYTES} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run the tokenizer stage again") from None
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path, f"not readable as JSON ({error})") from None


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path}: {what}; remove it and run the tokenizer stage again")
