"""The unit of text: what sources give, cleaning keeps, shards hold and evaluation scores."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One piece of text that stands for itself; no context crosses its ends."""

    text: str
    source: str
    """The collection that it comes from, as its rows name it."""
    id: str
    """What finds it again inside its source."""
    domain: str
    """The kind of text, such as "code"; figures are reported per domain."""
    piece: int = 0
    """Its place among the pieces of one text that was too long for a document, from 0."""
