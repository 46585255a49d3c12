"""`nano-think concepts`: the texts whose concepts are nearest to those of a phrase."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.cli.arguments import parse_arguments
from nano_think.cli.prompt import read_prompt
from nano_think.core.console import clean
from nano_think.core.errors import UsageError

if TYPE_CHECKING:
    from nano_think.evaluation.concepts import Found, Piece
    from nano_think.stages.opening import Opened


@dataclass(frozen=True, kw_only=True)
class ConceptsArguments:
    """Find what is about the same, by the concepts of a chat model that has the part `concepts`.

    A concept is a vertex of a cube of 16 bits: on which side of the mean of all text a piece's words lie, along the 16
    directions in which words differ most.
    """

    text: str
    """The phrase."""
    ahead: bool = False
    """Look for what the model expects to follow the phrase, in place of what the phrase is about."""
    k: int = 5
    """Nearest pieces of text that are shown (pieces)."""
    file: Path | None = None
    """A text file to look in; by default the held-out chats and texts of the run that the model is of."""
    model: str = "chat-latest"
    """"chat-latest" (the newest chat model under --root) or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"--k: wanted at least 1, got {self.k}")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ConceptsArguments, "concepts", arguments)
    from nano_think.evaluation.concepts import bits_of, concepts_part, number_of
    from nano_think.stages.opening import open_model

    opened = open_model(wanted.model, wanted.root)
    length = concepts_part(opened.model).config.horizon
    pieces = _pieces(wanted, opened, length)
    signs_N, found = _look(wanted, opened, pieces)
    about = {"text": wanted.text, "ahead": wanted.ahead, "concept": number_of(signs_N), "bits": bits_of(signs_N)}
    rows = [_row(one, pieces, opened) for one in found]
    if wanted.json:
        print(json.dumps(about | {"searched": len(pieces), "found": rows}, ensure_ascii=False))
        return 0
    print(f"concept {about['concept']} ({about['bits']}), nearest of {len(pieces):,} pieces of up to {length} tokens")
    for row in rows:
        likely = f"p {row['p']:.2g}, " if row["p"] is not None else ""
        place = f"{likely}{row['differing']} bits apart, similarity {row['similarity']:+.2f}"
        print(f"{row['concept']:>6}  {place}  {clean(row['domain'])}  {clean(row['text'])!r}")
    return 0


def _pieces(wanted: ConceptsArguments, opened: "Opened", length: int) -> "list[Piece]":
    """What is looked in."""
    from nano_think.data.tokens import TokenSet
    from nano_think.evaluation.concepts import Piece, pieces_of
    from nano_think.stages.artifact import ancestor

    if wanted.file:
        ids = opened.tokenizer.encode(read_prompt(None, wanted.file))
        pieces = [Piece(ids[place : place + length], "file") for place in range(0, len(ids), length)]
    else:
        made = (ancestor(opened.artifact, "chat_tokens"), ancestor(opened.artifact, "base", "tokens"))
        pieces = [piece for one in made if one for piece in pieces_of(TokenSet.open(one.verify().path, "test"), length)]
    if not pieces:
        raise UsageError("concepts: no held-out text of this model's run is under its root; name some: --file PATH")
    return pieces


def _look(wanted: ConceptsArguments, opened: "Opened", pieces: "Sequence[Piece]") -> "tuple[Any, list[Found]]":
    """The signs of the vertex that is looked for, and the pieces that are nearest."""
    from nano_think.evaluation.concepts import expected, nearest, places_of, signs_of

    tokenizer, window = opened.tokenizer, opened.shape.window
    places_PN = places_of(opened.model, [piece.tokens for piece in pieces])
    if wanted.ahead:
        return expected(opened.model, tokenizer.encode_document(wanted.text)[-window:], places_PN, wanted.k)
    ids = tokenizer.encode(wanted.text)
    if not ids:
        raise UsageError("--text: wanted a phrase, got nothing")
    place_N = places_of(opened.model, [ids])[0]
    return signs_of(place_N), nearest(places_PN, place_N, wanted.k)


def _row(one: "Found", pieces: "Sequence[Piece]", opened: "Opened") -> dict[str, Any]:
    import math

    from nano_think.evaluation.concepts import bits_of, number_of, places_of, readable, signs_of

    tokens, domain = pieces[one.piece]
    signs_N = signs_of(places_of(opened.model, [tokens])[0])
    return {
        "concept": number_of(signs_N), "bits": bits_of(signs_N), "differing": one.differing,
        "similarity": round(one.similarity, 4), "p": None if one.log_p is None else math.exp(one.log_p),
        "domain": domain, "text": readable(tokens, opened.tokenizer),
    }  # fmt: skip
