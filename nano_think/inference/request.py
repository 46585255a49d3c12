"""What is asked of the engine, and what it answers token by token.

K experts, V vocabulary
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nano_think.core.errors import NanoThinkError, UsageError, nearest
from nano_think.inference.sampling import SamplingConfig
from nano_think.parts import Dials

MOST_LOGPROBS, MOST_STOPS, MOST_TURN = 20, 16, 20.0

Memory = Literal["off", "read", "read-write"]
Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A text to go on from, and how. Raises `UsageError` for what cannot be asked."""

    prompt: tuple[int, ...]
    """Ids of the text, its start token first (tokens)."""
    max_new_tokens: int = 128
    """Most tokens that are written (tokens)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How tokens are drawn."""
    stop: tuple[str, ...] = ()
    """Texts before the first of which the answer ends, wherever the borders of its tokens are."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end the answer, besides the start token of a new document (tokens)."""
    logprobs: int | None = None
    """Tell the log-probability of every token and of this many likeliest ones, in nats; none: tell nothing."""
    memory: Memory = "off"
    """Whether what the namespace remembers counts, and whether this turn will be remembered when it is finished."""
    namespace: str = "default"
    """Whose memory it is."""
    turn: int = 0
    """Where in the prompt this turn begins: nothing before it is written to the memory, for that is what earlier turns
    have left there, or what was erased or not to be kept (position).
    """

    psyche: Dials = field(default_factory=dict)
    """How far each mode of a psyche is turned up, by name, -20 to 20; what is not named stands at 0 (nats)."""

    def __post_init__(self) -> None:
        check_dials(self.psyche)
        if not self.prompt:
            raise UsageError("prompt: wanted at least the start token, got nothing")
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens: wanted at least 1, got {self.max_new_tokens}")
        if len(self.stop) > MOST_STOPS or not all(self.stop):
            raise UsageError(f"stop: wanted up to {MOST_STOPS} texts, none of them empty, got {list(self.stop)}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise UsageError(f"logprobs: wanted 0 to {MOST_LOGPROBS}, got {self.logprobs}")


def check_dials(dials: Dials) -> None:
    """`UsageError` where one is turned too far, or to no number."""
    for name, value in dials.items():
        if not abs(value) <= MOST_TURN:
            raise UsageError(f"psyche: {name[:40]}: wanted a number from -{MOST_TURN:g} to {MOST_TURN:g}, got {value}")


def parse_dials(text: str) -> Dials:
    """`id=1,superego=4` as names and numbers; `UsageError` where it is not that."""
    dials = {}
    for one in filter(None, text.replace(",", " ").split()):
        name, _, value = one.partition("=")
        try:
            dials[name] = float(value)
        except ValueError:
            raise UsageError(f"psyche: wanted NAME=NUMBER,..., as in superego=4, got {one[:40]!r}") from None
    check_dials(dials)
    return dials


def expect_dials(dials: Dials, known: Sequence[str]) -> None:
    """`UsageError` for a dial that a model has not got."""
    for name in dials:
        if not known:
            raise UsageError("psyche: this model has none; train one with: nano-think sft --parts.on psyche")
        if name not in known:
            raise UsageError(f"psyche: unknown '{name[:40]}'; wanted {', '.join(known)}.{nearest(name[:40], known)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One token of a request's answer, or its end, or both.

    All texts of a request join to its answer; each holds whole characters, and none of them a part of a stop string.
    """

    request: int
    """The id that `Engine.submit` gave."""
    token: int | None = None
    """The token; none where only the end is told: a token that ends an answer is no part of it."""
    text: str = ""
    """What has become certain of the answer's text with it."""
    logprob: float | None = None
    """ln p(token) of the model (with what it remembers, before temperature and cuts), where asked for (nats)."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their ln p, the likeliest first (nats)."""
    weights: tuple[float, ...] = ()
    """How much each expert was trusted, (K), in the order of `Engine.names`."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the model's parts tell of the text before this token, by name: its energy, the loss that is expected."""
    finish: Finish | None = None
    """Why the answer ends here: its end or a stop string, `max_new_tokens`, `Engine.cancel`, an error of its own."""
    error: str = ""
    """What went wrong, in one line; of an answer that stands, why it will not be remembered."""
    failure: NanoThinkError | None = None
    """The same as the error that it was, whose kind tells more."""
