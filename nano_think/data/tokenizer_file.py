"""tokenizer.json and tokenizer_config.json: our merges in the form that `tokenizers` and transformers read, and back.

What is read is checked as a stranger's file: sizes are capped, and the split pattern is ours, never the file's, because
a hostile one can hang or crash an engine.
"""

import functools
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_think.core.errors import ArtifactError
from nano_think.core.files import write_json, write_text

FILE = "tokenizer.json"
MAX_FILE_BYTES = 256 * 2**20

# nanochat's variant of the GPT-4 pattern (words, one or two digits, punctuation, white space), without its possessive
# quantifiers, which cost a third of the speed and change no match, and with runs of white space cut at 256: unbounded
# ones overflow the stack of tiktoken's engine. tiktoken, rustbpe and tokenizers split every string alike with it.
PATTERN = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s{0,255}[\r\n]|\s{1,256}(?!\S)|\s{1,256}"
)

BOS, USER, USER_END = "<|bos|>", "<|user_start|>", "<|user_end|>"
ASSISTANT, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
SPECIALS = (BOS, USER, USER_END, ASSISTANT, ASSISTANT_END)

# A system message has no token of its own: it opens the first user message, as in nanochat.
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}{{ '<|user_start|>' + ns.system + message.content + '<|user_end|>' }}"
    "{% set ns.system = '' %}"
    "{% elif message.role == 'assistant' %}{{ '<|assistant_start|>' }}{% generation %}"
    "{{ message.content + '<|assistant_end|>' }}{% endgeneration %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)


@functools.cache
def byte_letters() -> tuple[str, ...]:
    """GPT-2's printable letter for each byte: printable ones stand for themselves, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(rest)) for byte in range(256))


def _letters(token: bytes) -> str:
    return "".join(byte_letters()[byte] for byte in token)


def merge_of(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made `token`: what is left of its bytes after every earlier merge."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        place = pairs.index(min(pairs))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    assert len(parts) == 2 and parts[0] in ranks and parts[1] in ranks, token
    return parts[0], parts[1]


def write(folder: Path, ranks: Mapping[bytes, int]) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` for token bytes -> id; the specials follow as the last ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {_letters(token): rank for token, rank in ranks.items()}
    ordered = sorted(ranks, key=ranks.__getitem__)
    halves = (merge_of(token, ranks) for token in ordered if len(token) > 1)
    merges = [(_letters(left), _letters(right)) for left, right in halves]
    exported = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    exported.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    exported.decoder = decoders.ByteLevel()
    exported.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIALS])
    write_text(folder / FILE, exported.to_str(pretty=True) + "\n")
    write_json(folder / "tokenizer_config.json", _transformers_config())


def _transformers_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": ASSISTANT_END,
        "pad_token": ASSISTANT_END,
        "additional_special_tokens": [USER, USER_END, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def read(folder: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    """(token bytes -> id, special name -> id) of our own tokenizer.json; `ArtifactError` for anything else."""
    path = folder / FILE
    values = _json(path)
    try:
        pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        vocab, added = values["model"]["vocab"], values["added_tokens"]
        byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        ranks = {bytes(byte_of[letter] for letter in token): int(rank) for token, rank in vocab.items()}
        special = {str(token["content"]): int(token["id"]) for token in added}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a part is missing or of the wrong type ({error!r})") from None
    if pattern != PATTERN:
        raise _damaged(path, "its split pattern is not nano_think's")
    if sorted(ranks.values()) != list(range(len(vocab))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise _damaged(path, "its ids have gaps or bytes are missing")
    if [special.get(name) for name in SPECIALS] != list(range(len(vocab), len(vocab) + len(SPECIALS))):
        raise _damaged(path, "its special tokens are not nano_think's")
    return ranks, {name: special[name] for name in SPECIALS}


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
