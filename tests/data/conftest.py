"""Small texts and a tokenizer trained in the process: no test here needs the network."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

PLAIN = "the cat sat on a mat and saw 12 dogs; they said: don't I'LL\n\tif x == 3:  return"
WORDS = f"{PLAIN} \u201cna\u00efve caf\u00e9!\u201d \u4f60\u597d \U0001f600"


def sentence(number: int) -> str:
    words = WORDS.split(" ")
    return " ".join(words[(number * 7 + place * (number % 5 + 1)) % len(words)] for place in range(40)) + f" {number}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two domains of 300 rows each."""
    root = tmp_path_factory.mktemp("corpus")
    for start, domain in ((0, "cats"), (300, "dogs")):
        rows = [{"text": sentence(number), "source": "made", "id": number} for number in range(start, start + 300)]
        (root / domain).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / domain / "rows.jsonl").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def documents(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus after ingestion."""
    out = tmp_path_factory.mktemp("documents")
    ingest(IngestConfig(sources=(f"jsonl:{corpus}/*/*.jsonl",)), out)
    return out


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=420), (sentence(number) for number in range(300)), out)
    return out


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write bytes to a file of the given name and return its path."""

    def to(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to
