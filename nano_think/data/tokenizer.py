"""Byte-level BPE: trained by rustbpe, encoded by tiktoken, exported through tokenizers; the same ids in all three."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.core.config import Config
from nano_think.core.errors import ArtifactError, InputError
from nano_think.data import tokenizer_chat, tokenizer_file
from nano_think.data.tokenizer_file import PATTERN, SPECIALS, Vocabulary
from nano_think.data.tokenizer_gpt2 import read_gpt2

if TYPE_CHECKING:
    import numpy as np

BYTES = 256
_NO_UTF8 = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig(Config):
    """How the vocabulary is learned."""

    vocab_size: int = 4096
    """Ids in all, in tokens: 256 bytes, the merges, and the 5 special tokens at the end. Not used with `gpt2`."""
    max_train_bytes: int = 512 * 2**20
    """Text that is read for training, in bytes; from more, a sample by hash."""
    gpt2: Path | None = None
    """Folder with GPT-2's vocabulary (vocab.json and merges.txt, encoder.json and vocab.bpe, or tokenizer.json), to be
    used in place of a learned one; none = learn."""

    def __post_init__(self) -> None:
        if not BYTES + len(SPECIALS) < self.vocab_size <= 2**20:
            raise ValueError(f"vocab_size: wanted {BYTES + len(SPECIALS) + 1} to {2**20}, got {self.vocab_size}")
        # rustbpe counts pairs in 32 bits.
        if not 1 <= self.max_train_bytes < 2**31:
            raise ValueError(f"max_train_bytes: wanted 1 to {2**31 - 1}, got {self.max_train_bytes}")


def train_tokenizer(config: TokenizerConfig, texts: Iterator[str], out: Path) -> dict[str, Any]:
    """Learn merges from `texts`, at most `max_train_bytes` of them, and write the two tokenizer files to `out`.

    Deterministic. Returns {vocab_size, merges, special, documents, bytes}. Raises `InputError` when the text is too
    small for `vocab_size`.
    """
    import rustbpe

    read = {"documents": 0, "bytes": 0}
    trainer = rustbpe.Tokenizer()
    wanted = config.vocab_size - len(SPECIALS)
    trainer.train_from_iterator(_limited(texts, config.max_train_bytes, read), wanted, pattern=PATTERN)
    learned = trainer.get_mergeable_ranks()
    ranks = {bytes(token): rank for token, rank in learned}
    assert len(ranks) == len(learned), "two merges of the same bytes"
    if len(ranks) < wanted:
        most = len(ranks) + len(SPECIALS)
        raise InputError(
            f"the text ({read['bytes']:,} bytes) yields {most} tokens, not {config.vocab_size}: "
            f"lower the tokenizer's vocab_size to at most {most}, or give more text"
        )
    return _write(Vocabulary(ranks), out) | read


def adopt_gpt2(folder: Path, out: Path) -> dict[str, Any]:
    """Write GPT-2's vocabulary from its own files to `out`: its ids 0 to 50,256, then our special tokens for chats.

    `<|endoftext|>` opens every document. Returns as `train_tokenizer`, which see, nothing read. Raises `InputError`.
    """
    return _write(read_gpt2(folder), out) | {"documents": 0, "bytes": 0}


def _write(vocabulary: Vocabulary, out: Path) -> dict[str, Any]:
    tokenizer_file.write(out, vocabulary)
    merges, special = len(vocabulary.ranks) - BYTES, vocabulary.special
    return {"vocab_size": BYTES + merges + len(special), "merges": merges, "special": special}


def _limited(texts: Iterator[str], limit: int, read: dict[str, int]) -> Iterator[str]:
    for text in texts:
        size = len(text.encode(errors="replace"))
        if read["bytes"] + size > limit and read["bytes"]:
            return
        read["documents"] += 1
        read["bytes"] += size
        yield text


class Tokenizer:
    """Text <-> ids. What a user types is always text: `encode` never yields a special id, whatever the text says."""

    def __init__(self, vocabulary: Vocabulary):
        import tiktoken

        ranks, self.special = vocabulary.ranks, vocabulary.special
        self.vocab_size = len(ranks) + len(self.special)
        self.bos = self.special[vocabulary.start]
        self._start = vocabulary.start
        self._bytes = [*sorted(ranks, key=ranks.__getitem__), *(name.encode() for name in self.special)]
        self._of_byte = [ranks[bytes([byte])] for byte in range(BYTES)]
        self._engine = tiktoken.Encoding(
            "nano_think",
            pat_str=vocabulary.pattern,
            mergeable_ranks=dict(ranks),
            special_tokens=self.special,
            explicit_n_vocab=self.vocab_size,
        )

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer in `folder`, from tokenizer.json alone; `ArtifactError` when it is missing or damaged."""
        vocabulary = tokenizer_file.read(folder)
        with _no_panic(folder / tokenizer_file.FILE):
            return cls(vocabulary)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without a start token. Halves of surrogate pairs become U+FFFD."""
        return self._engine.encode_ordinary(text)

    def encode_array(self, text: str) -> "np.ndarray":
        """As `encode`, as uint32 and without a Python object per token."""
        return self._array(text, frozenset())

    def _array(self, text: str, allowed: frozenset[str]) -> "np.ndarray":
        try:
            return self._engine.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())
        except UnicodeEncodeError:
            # As the engine's own repair in `encode`: halves that belong together are joined, others become U+FFFD.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._engine.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes, for `decode_bytes`: `encode` of what is UTF-8, and one id for each byte that is not."""
        ids: list[int] = []
        # Bytes that are no UTF-8 become U+DC80 to U+DCFF, which valid UTF-8 cannot hold.
        for place, part in enumerate(_NO_UTF8.split(data.decode(errors="surrogateescape"))):
            ids += (self._of_byte[ord(half) - 0xDC00] for half in part) if place % 2 else self.encode(part)
        return ids

    def encode_chat(
        self, messages: Iterable[Mapping[str, str]], add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """(ids, mask) of messages {"role": system, user or assistant, "content": text}.

        The mask is true for what the assistant says, its end token included: the ids that a model learns from. The ids
        are those of transformers' `apply_chat_template`, but for special tokens that somebody typed, which are
        plain text here and have a zero-width space put into them there. Raises `InputError` for other roles.
        """
        ids, mask = tokenizer_chat.encode(messages, self.encode, self.special)
        prompt = [self.special[tokenizer_chat.ASSISTANT]] if add_generation_prompt else []
        return [self.bos, *ids, *prompt], [False, *mask, *(False for _ in prompt)]

    def encode_document(self, text: str) -> list[int]:
        """The start token, then the ids of the text: how documents stand in the token files."""
        return [self.bos, *self.encode(text)]

    def encode_many(self, texts: Sequence[str]) -> tuple["np.ndarray", "np.ndarray"]:
        """All texts in one call of the engine, without Python's lock: give about 1 MB at a time, from several threads.

        Returns (ids, lengths): uint32 (N,), `encode_document` of each text in a row; int64 (len(texts),), the ids of
        each with its start token.
        """
        import numpy as np

        start = self._start
        joined = start.join(["", *texts])
        # A start token that somebody typed must stay text, and here it could not be told from ours.
        if joined.count(start) > len(texts):
            return self._encode_each(texts)
        ids = self._array(joined, frozenset({start}))
        bounds = np.append(np.flatnonzero(ids == self.bos), len(ids))
        return ids, np.diff(bounds)

    def _encode_each(self, texts: Sequence[str]) -> tuple["np.ndarray", "np.ndarray"]:
        """The plain twin of `encode_many`: one text at a time."""
        import numpy as np

        rows = [self.encode_document(text) for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.uint32, count=lengths.sum()), lengths

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """`encode` of each text, on `threads` threads (the engine lets go of Python's lock)."""
        if threads == 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; a special token gives its name."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for. Raises `IndexError` outside 0 <= id < vocab_size."""
        if token < 0:
            raise IndexError(f"token id {token}: wanted 0 to {self.vocab_size - 1}")
        return self._bytes[token]


@contextlib.contextmanager
def _no_panic(path: Path) -> Iterator[None]:
    """A panic of the Rust engines is a BaseException that `except Exception` lets through; make it an error."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ArtifactError(f"{path}: refused by the engine ({error}); run the tokenizer stage again") from None
        raise
