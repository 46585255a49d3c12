"""What an answer was like as a whole: the means of what is told of its tokens.

K experts, or modes of a psyche
"""

from collections.abc import Sequence
from statistics import fmean

from nano_think.inference.request import Event


def mean_weights(events: Sequence[Event]) -> tuple[float, ...]:
    """How much each expert was trusted with the answer's tokens on average, (K); nothing of an answer of none."""
    spoken = [event.weights for event in events if event.weights]
    return tuple(fmean(column) for column in zip(*spoken, strict=True))


def mean_figures(events: Sequence[Event]) -> dict[str, float]:
    """The means of what the model's parts tell of the states that have read a token of the answer.

    Each event tells of the state that has read the token before its own, so the first tells of the prompt alone and
    does not count; the last token of an answer that is as long as it may be is never read.
    """
    told = [event.figures for event in events[1:] if event.figures]
    return {name: fmean(figures[name] for figures in told) for name in (told[0] if told else ())}
