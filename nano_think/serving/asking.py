"""From what a client asks to what the engine is asked."""

import secrets
from dataclasses import dataclass, replace

from nano_think.core.errors import InputError, UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_chat import CHAT
from nano_think.inference.dialogue import encode_fitting, last_turn
from nano_think.inference.ranking import candidates
from nano_think.inference.request import Memory, Request, expect_dials
from nano_think.inference.sampling import SamplingConfig
from nano_think.serving.config import Limits
from nano_think.serving.errors import ApiError
from nano_think.serving.schema import Asked, ChatRequest, CompletionRequest

MODES: tuple[Memory, ...] = ("off", "read", "read-write")
"""What may be done with a memory, the least first."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model behind the server, and what a request means that leaves something open."""

    name: str
    """What requests call it."""
    digest: str
    """Of its artifact."""
    experts: tuple[str, ...]
    tokenizer: Tokenizer
    window: int
    """Longest context that it was trained with (tokens)."""
    dials: tuple[str, ...] = ()
    """What requests may steer."""
    figures: tuple[str, ...] = ()
    """What the model's parts tell of each token."""
    limits: Limits = Limits()
    sampling: SamplingConfig = SamplingConfig()
    answer: int = 256
    """Longest answer (tokens)."""
    memory: Memory = "read-write"
    """The most that a request may do with a memory, and what it does if it says nothing."""
    namespace: str = "default"


def from_chat(asked: ChatRequest, served: Served) -> Request:
    """A chat as tokens; what somebody types is text, whatever it looks like, and never a special token."""
    if len(asked.messages) > served.limits.messages:
        message = f"wanted up to {served.limits.messages} messages, got {len(asked.messages)}"
        raise ApiError(400, f"messages: {message}", param="messages")
    if asked.messages[-1].role != "user":
        raise ApiError(400, "messages: wanted the last one to be the user's", param="messages")
    messages = [message.plain() for message in asked.messages]
    try:
        if asked.truncation == "auto":
            ids = encode_fitting(messages, served.tokenizer, served.window)
        else:
            ids, _ = served.tokenizer.encode_chat(messages, add_generation_prompt=True)
    except InputError as error:
        raise ApiError(400, str(error), param="messages") from None
    return replace(_request(asked, ids, asked.likeliest, served), turn=last_turn(ids, served.tokenizer))


def from_completion(asked: CompletionRequest, served: Served) -> Request:
    """A text, or ids, to write on from."""
    start = served.tokenizer.bos
    before = served.tokenizer.encode(asked.before)
    if isinstance(asked.prompt, str):
        ids = served.tokenizer.encode(asked.prompt)
    else:
        ids = [int(token) for token in asked.prompt]
    # Special tokens are the ids behind those of text, and the start token is the first of them.
    if not all(0 <= token < start for token in ids):
        raise ApiError(400, f"prompt: wanted ids of text, 0 to {start - 1}", param="prompt")
    gone = max(0, len(before) + len(ids) + 1 - served.window) if asked.truncation == "auto" else 0
    wanted = _request(asked, [start, *[*before, *ids][gone:]], asked.likeliest, served)
    return replace(wanted, turn=max(0, 1 + len(before) - gone) if before else 0)


def competing(wanted: Request, asked: Asked, served: Served) -> list[Request]:
    """The requests of whose answers the best is told: one, unless `best_of` says more."""
    if asked.best_of in (None, 1):
        return [wanted]
    if asked.stream:
        raise ApiError(400, "best_of: the best of several is known at the end; wanted no stream", param="best_of")
    try:
        return candidates(wanted, asked.best_of, served.figures)
    except UsageError as error:
        raise ApiError(400, str(error), param="best_of") from None


def _request(asked: Asked, ids: list[int], likeliest: int | None, served: Served) -> Request:
    _check(asked, ids, served)
    special = served.tokenizer.special
    try:
        return Request(
            prompt=tuple(ids),
            max_new_tokens=served.answer if asked.length is None else asked.length,
            sampling=_sampling(asked, served.sampling),
            stop=asked.stops,
            stop_tokens=tuple(special[name] for name in CHAT),
            logprobs=likeliest,
            memory=_memory(asked, served),
            namespace=asked.namespace or served.namespace or "default",
            psyche=asked.psyche or {},
        )
    except (UsageError, ValueError) as error:
        raise ApiError(400, str(error)) from None


def _check(asked: Asked, ids: list[int], served: Served) -> None:
    if asked.model != served.name:
        message = f"no model {asked.model[:80]!r} here; there is '{served.name}'"
        raise ApiError(404, message, param="model", code="model_not_found")
    try:
        expect_dials(asked.psyche or {}, served.dials)
    except UsageError as error:
        raise ApiError(400, str(error), param="psyche") from None
    if asked.length is not None and asked.length > served.limits.new_tokens:
        message = f"max_tokens: wanted up to {served.limits.new_tokens}, got {asked.length}"
        raise ApiError(400, message, param="max_tokens")
    if len(ids) > served.window:
        message = f"the context holds {served.window} tokens, and the request has {len(ids)}; leave some out"
        raise ApiError(400, message, code="context_length_exceeded")


def _sampling(asked: Asked, usual: SamplingConfig) -> SamplingConfig:
    """The way to draw; without a seed, one that nobody can foresee."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    own = {name: getattr(usual, name) for name in names} | {"seed": secrets.randbits(62)}
    return SamplingConfig(**own | {name: value for name in names if (value := getattr(asked, name)) is not None})


def _memory(asked: Asked, served: Served) -> Memory:
    """What is asked for; without a namespace of its own or the server's, a request neither reads nor writes."""
    if asked.namespace is None and not served.namespace:
        return "off"
    if asked.memory is None:
        return served.memory
    if MODES.index(asked.memory) > MODES.index(served.memory):
        raise ApiError(
            400, f"memory: wanted at most {served.memory} on this server, got {asked.memory}", param="memory"
        )
    return asked.memory
