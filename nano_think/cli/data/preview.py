"""`nano-think data preview`: a few documents, as they are trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
from rich.panel import Panel
from rich.text import Text

from nano_think.cli.data.corpus import TextArguments, corpus
from nano_think.core.console import console, spelled
from nano_think.core.errors import UsageError, nearest
from nano_think.data.clean import SPLITS
from nano_think.data.document import Document
from nano_think.data.shards import COLUMNS, arrow_file, document_shards
from nano_think.data.tokenizer import Tokenizer

# What a panel holds of a long text, and its width in columns.
MOST_LINES = 24
WIDEST = 110
# Between tokens; the colour changes too, but not every terminal has any.
SEAM = "│"


@dataclass(frozen=True, kw_only=True)
class PreviewArguments(TextArguments):
    """Show documents drawn at random, the domains taking turns."""

    n: int = 4
    """How many are shown (documents)."""
    domain: str | None = None
    """Only documents of this domain."""
    split: Literal["train", "router", "validation", "test"] | None = None
    """Only documents of this split."""
    seed: int = 0
    """Which documents are drawn: the same seed shows the same ones."""
    chars: int = 1200
    """What is shown of each text (characters); the middle of longer ones is left out."""
    tokens: bool = False
    """Show where one token ends and the next begins, by the tokenizer that was trained on the text."""

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("chars", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}: wanted at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document lies, and what was drawn for it."""

    draw: float
    split: str
    shard: Path
    batch: int
    row: int


def main(arguments: list[str]) -> int:
    with corpus(PreviewArguments, "data preview", arguments) as (wanted, found):
        if wanted.tokens and not found.tokenizer:
            raise UsageError(
                f"--tokens: no tokenizer has been trained on {found.what} yet; leave it out or finish a run"
            )
        tokenizer = Tokenizer.load(found.tokenizer) if wanted.tokens and found.tokenizer else None
        splits = [wanted.split] if wanted.split else SPLITS
        out = console()
        for place in draw(found.folder, wanted.n, splits, wanted.domain, wanted.seed):
            out.print(panel(fetch(place), place.split, wanted.chars, tokenizer, min(WIDEST, out.width)))
    return 0


def draw(folder: Path, n: int, splits: Sequence[str], domain: str | None, seed: int) -> list[Place]:
    """`n` documents, the domains taking turns, those of a domain drawn without preference.

    Every document has a number drawn for it, and the least ones win: at most `n` places of a domain are held. Raises
    `UsageError` for a domain that is not there.
    """
    least: dict[str, list[Place]] = {}
    for found, places in _candidates(folder, n, splits, seed):
        least[found] = sorted([*least.get(found, []), *places], key=lambda place: place.draw)[:n]
    if domain is not None and domain not in least:
        raise UsageError(f"--domain: no document of '{domain}' is there.{nearest(domain, least)}")
    turns = [least[name] for name in sorted(least) if domain in (None, name)]
    return list(islice(filter(None, chain.from_iterable(zip_longest(*turns))), n))


def _candidates(folder: Path, n: int, splits: Sequence[str], seed: int) -> Iterator[tuple[str, list[Place]]]:
    """Domain by domain, the `n` documents of each record batch that the least numbers were drawn for."""
    random = np.random.default_rng(seed)
    for split, shard in ((one, shard) for one in splits for shard in document_shards(folder, one)):
        with arrow_file(shard) as file:
            for number in range(file.num_record_batches):
                domains = np.array(file.get_batch(number)["domain"].to_pylist(), dtype=object)
                draws = random.random(len(domains))
                for domain in dict.fromkeys(domains):
                    rows = np.flatnonzero(domains == domain)
                    first = rows[np.argsort(draws[rows])[:n]]
                    yield domain, [Place(draws[row], split, shard, number, int(row)) for row in first]


def fetch(place: Place) -> Document:
    """The document that lies there."""
    with arrow_file(place.shard) as file:
        row = file.get_batch(place.batch).slice(place.row, 1).to_pylist()[0]
    return Document(*(row[name] for name in COLUMNS))


def panel(document: Document, split: str, chars: int, tokenizer: Tokenizer | None, width: int) -> Panel:
    """The document in a frame that says what it is."""
    about = [split, f"{len(document.text.encode()):,} bytes"]
    head, left_out, tail = shortened(document.text, chars)
    body, unit = [_shown(head), _shown(tail)], "characters"
    if tokenizer:
        ids = tokenizer.encode(document.text)
        about.append(f"{len(ids):,} tokens")
        first, last = _covering(tokenizer, ids, head), _covering(tokenizer, ids[::-1], tail)
        # Tokens are not cut: the two ends may meet.
        first, last = (first, last) if first + last < len(ids) else (len(ids), 0)
        left_out, unit = len(ids) - first - last, "tokens"
        body = [_tokens(tokenizer, ids[:first]), _tokens(tokenizer, ids[len(ids) - last :])]
    if left_out:
        body.insert(1, Text(f"\n⋯ {left_out:,} {unit} are not shown ⋯\n", style="dim"))
    names = (document.domain, document.source, document.id)
    title = Text(" · ", style="not dim").join(_shown(" ".join(part.split()), "bold not dim") for part in names)
    return Panel(
        Text.assemble(*body), title=title, title_align="left", subtitle=Text(" · ".join(about), style="dim"),
        subtitle_align="right", width=width, padding=(0, 1), border_style="dim",
    )  # fmt: skip


def shortened(text: str, chars: int) -> tuple[str, int, str]:
    """The beginning of a text, how many characters follow it that are not shown, and its end."""
    if len(text) <= chars and text.count("\n") < MOST_LINES:
        return text, 0, ""
    ending, last_lines = chars // 3, MOST_LINES // 3
    head = "\n".join(text[: chars - ending].split("\n")[: MOST_LINES - last_lines])
    tail = "\n".join(text[len(text) - ending :].split("\n")[-last_lines:])
    return head, len(text) - len(head) - len(tail), tail


def _shown(text: str, style: str = "", line_end: str = "\n") -> Text:
    shown = Text(style=style)
    for character, is_spelled in spelled(text):
        # A tab still indents.
        seen = {"\n": line_end, "␉": "␉   " if is_spelled else "␉"}.get(character, character)
        shown.append(seen, "reverse" if is_spelled else None)
    return shown


def _covering(tokenizer: Tokenizer, ids: Sequence[int], part: str) -> int:
    """How many of the first tokens it takes to cover a part of the text."""
    wanted = len(part.encode())
    for count, token in enumerate(ids):
        if wanted <= 0:
            return count
        wanted -= len(tokenizer.token_bytes(token))
    return len(ids)


def _tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> Text:
    """Tokens in turns of two colours."""
    pieces = (_piece(tokenizer.token_bytes(token), "cyan" if number % 2 else "") for number, token in enumerate(ids))
    return Text.assemble((SEAM, "dim")).join(pieces)


def _piece(token: bytes, style: str) -> Text:
    """A token; where it is only a part of a character, its bytes in hexadecimal."""
    try:
        return _shown(token.decode(), style, "↵\n")
    except UnicodeDecodeError:
        return Text(f"<{token.hex(' ')}>", style=f"reverse {style}")
