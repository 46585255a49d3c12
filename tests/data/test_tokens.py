"""Token files: every document is found again at its offset, read without a copy, and counted right."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nano_think.core.errors import ArtifactError
from nano_think.core.files import sha256
from nano_think.data.clean import SPLITS
from nano_think.data.shards import DocumentWriter, read_documents
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet, token_type, unigram, write_tokens


@pytest.fixture(scope="module")
def tokens(documents: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    write_tokens(documents, tokenizer, out)
    return out


@pytest.mark.parametrize("split", SPLITS)
def test_every_document_stands_at_its_offset(split: str, tokens: Path, documents: Path, tokenizer: Tokenizer) -> None:
    found = TokenSet.open(tokens, split)
    table = found.documents.to_pylist()
    expected = list(read_documents(documents, split))
    assert len(table) == len(expected)
    for row, document in zip(table, expected, strict=True):
        ids = found.tokens[row["offset"] : row["offset"] + row["tokens"]].tolist()
        assert ids == tokenizer.encode_document(document.text)
        assert row["bytes"] == len(document.text.encode())
        assert (row["source"], row["id"], row["domain"]) == (document.source, document.id, document.domain)
    assert len(found) == sum(row["tokens"] for row in table)


def test_tokens_are_one_batch_mapped_without_a_copy(tokens: Path) -> None:
    with pa.memory_map(str(tokens / "train.tokens.arrow")) as mapped:
        file = pa.ipc.open_file(mapped)
        assert file.num_record_batches == 1
        assert file.schema == pa.schema([("tokens", pa.uint16())])
    before = pa.total_allocated_bytes()
    found = TokenSet.open(tokens, "train")
    assert found.tokens.dtype == np.uint16
    assert not found.tokens.flags.writeable
    assert pa.total_allocated_bytes() - before < 2 * len(found) + found.documents.nbytes


def test_the_summary_counts_tokens_documents_and_bytes(documents: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    summary = write_tokens(documents, tokenizer, tmp_path)
    assert (summary["vocab_size"], summary["dtype"]) == (tokenizer.vocab_size, "uint16")
    for split, counts in summary["splits"].items():
        found = TokenSet.open(tmp_path, split)
        assert counts["tokens"] == len(found)
        assert counts["documents"] == found.documents.num_rows
        for name in ("tokens", "documents", "bytes"):
            assert counts[name] == sum(domain[name] for domain in counts["domains"].values())
    assert set(summary["splits"]["train"]["domains"]) == {"cats", "dogs"}
    assert not [path.name for path in tmp_path.iterdir() if not path.name.endswith(".arrow")]


def test_threads_do_not_change_a_byte(tokens: Path, documents: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokens(documents, tokenizer, tmp_path, threads=2)
    assert {path.name: sha256(path) for path in tmp_path.iterdir()} == {p.name: sha256(p) for p in tokens.iterdir()}


def test_a_split_without_documents_has_no_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for split in SPLITS:
        with DocumentWriter(tmp_path, split):
            pass
    summary = write_tokens(tmp_path, tokenizer, tmp_path)
    assert summary["splits"]["test"] == {"tokens": 0, "documents": 0, "bytes": 0, "domains": {}}
    assert len(TokenSet.open(tmp_path, "test")) == 0


def test_the_narrowest_type_that_holds_every_id() -> None:
    assert [token_type(size).name for size in (4096, 65535, 65536)] == ["uint16", "uint16", "uint32"]


def test_unigram_is_smoothed_and_leaves_out_start_tokens(tokens: Path, tokenizer: Tokenizer) -> None:
    logp = unigram(tokens, "train", tokenizer.vocab_size)
    found = TokenSet.open(tokens, "train")
    assert (logp.dtype, logp.shape) == (np.float32, (tokenizer.vocab_size,))
    assert np.exp(logp.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    total = len(found) - found.documents.num_rows + tokenizer.vocab_size
    assert logp[tokenizer.bos] == pytest.approx(-np.log(total))
    token = tokenizer.encode("a")[0]
    assert logp[token] == pytest.approx(np.log((np.sum(found.tokens == token) + 1) / total))


@pytest.mark.parametrize("name", ["train.tokens.arrow", "train.documents.arrow"])
def test_missing_and_damaged_files_are_named(name: str, tokens: Path, tmp_path: Path) -> None:
    for path in tokens.glob("train.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=f"{name}: damaged"):
        TokenSet.open(tmp_path, "train")
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: missing"):
        TokenSet.open(tmp_path, "train")


def test_tokens_of_another_run_are_refused(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "train.documents.arrow").write_bytes((tokens / "test.documents.arrow").read_bytes())
    (tmp_path / "train.tokens.arrow").write_bytes((tokens / "train.tokens.arrow").read_bytes())
    with pytest.raises(ArtifactError, match="does not fit its table of documents"):
        TokenSet.open(tmp_path, "train")
    (tmp_path / "train.tokens.arrow").write_bytes((tokens / "train.documents.arrow").read_bytes())
    with pytest.raises(ArtifactError, match="does not fit its table of documents"):
        TokenSet.open(tmp_path, "train")


def test_an_interrupted_encoding_goes_on(documents: Path, tokens: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Shards that were done are not encoded again, what was half done is, and the files are the same."""
    real, told = tokenizer.encode_many, []

    class Killed(BaseException):
        pass

    class Engine:
        vocab_size = tokenizer.vocab_size

        def encode_many(self, texts):
            told.append(len(texts))
            if len(told) == 3:
                raise Killed
            return real(texts)

    with pytest.raises(Killed):
        write_tokens(documents, Engine(), tmp_path)
    (tmp_path / "work" / "tokens" / "validation.ids").write_bytes(b"half done")
    before = len(told)
    write_tokens(documents, Engine(), tmp_path)
    assert len(told) - before == 2
    assert {path.name: sha256(path) for path in tmp_path.iterdir()} == {p.name: sha256(p) for p in tokens.iterdir()}
