"""Little text: whole documents of the starter corpus up to so many bytes, and held-out ones to fit and to test on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nano_think.data.tokens import TokenSet
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.reading import Document
from nano_think.stages.pipeline import load, plan

STAGES = ("ingest", "tokenizer", "tokens")


@dataclass(frozen=True, kw_only=True)
class Text:
    """tokens: of the training's documents, one behind the other. bias (V): log-unigram of these tokens alone."""

    tokens: np.ndarray
    bytes: int
    bias: Tensor
    start: int
    validation: list[Document]
    test: list[Document]

    @property
    def digest(self) -> str:
        """Of all that is read."""
        parts = [self.tokens, *(one.tokens for one in (*self.validation, *self.test))]
        return hashlib.sha256(b"".join(np.ascontiguousarray(part, np.int64).tobytes() for part in parts)).hexdigest()


def little_text(
    root: Path, *, size: int, vocabulary: int, most: int, fit: int, test: int, overrides: dict | None = None
) -> Text:
    """Documents of up to `most` tokens in an order that is always the same, until `size` bytes are reached.

    fit, test: tokens of the validation and of the test split. The vocabulary is learned from the whole training split,
    of which the documents are a part: it is the same for every model.
    """
    settings = {"tokenizer": {"vocab_size": vocabulary}, "ingest": {"test_fraction": 0.05}}
    nodes, made = plan(load("micro", settings, overrides or {})), {}
    for name in STAGES:
        made[name] = nodes[name].stage.run(root / "text", {need: made[need] for need in nodes[name].needs})
    folder, about = made["tokens"].path, made["tokens"].summary
    chosen, bytes_ = [], 0
    for document in split_documents(TokenSet.open(folder, "train"), 10**12, seed=0):
        if bytes_ >= size:
            break
        if len(document.tokens) <= most:
            chosen.append(document)
            bytes_ += document.bytes
    tokens = np.concatenate([document.tokens for document in chosen])
    counts = np.bincount(tokens[tokens != about["start_token"]], minlength=about["vocab_size"])
    bias_V = np.log((counts + 1) / (counts.sum() + len(counts)))
    held_out = {
        split: list(split_documents(TokenSet.open(folder, split), count, seed=0))
        for split, count in (("validation", fit), ("test", test))
    }
    return Text(
        tokens=tokens, bytes=bytes_, bias=torch.from_numpy(bias_V).float(), start=about["start_token"], **held_out
    )
