"""`nano-think memory search`: the entries nearest to a text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean
from nano_think.core.files import read_json, sha256
from nano_think.data import tokenizer_file
from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.remembering import keys_of
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import Owner
from nano_think.memory.places import find
from nano_think.models.checkpoint import SHAPE, load_mixture
from nano_think.stages.artifact import Artifact, find_model

BEFORE = 12


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """Find what was thought most like at the end of a text, and what came next."""

    namespace: str
    """Whose memory."""
    text: str
    """The text."""
    k: int = 4
    """Nearest entries that are shown (entries)."""
    model: str = "latest"
    """"latest" (the newest finished pipeline under --root) or the folder of a trained router."""
    root: Path = Path("artifacts")
    """Artifact root."""
    encode_again: bool = False
    """Where there is only another model's memory: read its text with this one, which is kept beside it."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"--k: wanted at least 1, got {self.k}")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(SearchArguments, "memory search", arguments)
    artifact, _ = find_model(wanted.model, wanted.root)
    model, shape = load_mixture(artifact.path)
    tokenizer = Tokenizer.load(artifact.path)

    def encode(tokens_T: np.ndarray) -> np.ndarray:
        return keys_of(model, tokens_T, shape.window)

    owner = owner_of(artifact)
    folder = find(wanted.root, owner, wanted.namespace, encode if wanted.encode_again else None)
    query_1D = encode(np.array(tokenizer.encode_document(wanted.text)[-shape.window :]))[-1:]
    found = _found(Conversations(folder, owner), query_1D, wanted.k, tokenizer)
    if wanted.json:
        print(json.dumps({"namespace": wanted.namespace, "found": found}, ensure_ascii=False))
        return 0
    for row in found:
        place = f"{row['similarity']:.3f}  document {row['document']}, position {row['position']}"
        print(f"{place}  {clean(row['text'])!r} -> {clean(row['next'])!r}")
    return 0


def owner_of(artifact: Artifact) -> Owner:
    """The owner of memories of a trained mixture."""
    tokenizer = sha256(artifact.path / tokenizer_file.FILE)
    return Owner(model=artifact.digest, tokenizer=tokenizer, width=read_json(artifact.path / SHAPE)["width"])


def _found(memory: Conversations, query_1D: np.ndarray, k: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    found = memory.search(query_1D, k)
    turns = list(memory.turns())
    rows = []
    for n in range(k):
        if found.value[0, n] < 0:
            break
        at = int(found.time[0, n])
        (turn,) = (one for one in turns if one.time <= at < one.end)
        tokens = turn.tokens[max(0, at - turn.time + 1 - BEFORE) : at - turn.time + 1]
        rows.append({
            "similarity": round(float(found.similarity[0, n]), 6),
            "document": int(found.document[0, n]),
            "position": int(found.position[0, n]),
            "time": at,
            "weight": float(found.weight[0, n]),
            "text": tokenizer.decode(tokens.tolist()),
            "next": tokenizer.decode([int(found.value[0, n])]),
        })  # fmt: skip
    return rows
