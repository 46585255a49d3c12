"""The requests that are understood: OpenAI's fields with their ranges, and a few of our own.

A field that we do not know is refused, as OpenAI does, and so is a value that we cannot honour: an option that is
silently left out is worse than one that is refused.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nano_think.inference.request import MOST_LOGPROBS, MOST_STOPS, MOST_TURN, Memory
from nano_think.memory.places import NAME
from nano_think.serving.errors import ApiError

M = TypeVar("M", bound=BaseModel)
Stop = Annotated[str, Field(min_length=1, max_length=500)]
Tokens = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MOST_BEST = 16
"""Most answers of which one is chosen."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    """What one side said; `name` is accepted and not used."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def plain(self) -> dict[str, str]:
        """As the tokenizer wants it; "developer" is OpenAI's newer word for "system"."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(Strict):
    """What both kinds of requests share."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: Tokens | None = None
    stop: Stop | list[Stop] | None = None
    seed: Seed | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # Ours.
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    memory: Memory | None = None
    namespace: str | None = None
    best_of: int | None = Field(None, ge=1, le=MOST_BEST)
    psyche: dict[str, Annotated[float, Field(ge=-MOST_TURN, le=MOST_TURN)]] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    # Known, and only with the value that changes nothing.
    n: Literal[1] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @field_validator("stop")
    @classmethod
    def _few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise ValueError(f"wanted up to {MOST_STOPS} texts")
        return stop

    @field_validator("namespace")
    @classmethod
    def _simple(cls, namespace: str | None) -> str | None:
        if namespace is not None and not NAME.fullmatch(namespace):
            raise ValueError("wanted 1 to 64 of a-z, 0-9, - and _, the first a letter or digit")
        return namespace

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def length(self) -> int | None:
        """Longest answer that is asked for (tokens)."""
        return self.max_tokens


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens are told beside each; none: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] = Field(min_length=0)
    # Ours: what comes before the prompt and was said in earlier turns, which have left it in the memory, or not.
    before: str = ""
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: Literal[False] | None = None
    suffix: None = None

    @field_validator("prompt")
    @classmethod
    def _one(cls, prompt: str | list[int] | list[str]) -> str | list[int]:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            if len(prompt) > 1:
                raise ValueError("wanted one text: ask for several in several requests")
            return prompt[0]
        return prompt  # type: ignore[return-value]

    @property
    def likeliest(self) -> int | None:
        return self.logprobs


def read(kind: type[M], body: bytes) -> M:
    """The request in a body; `ApiError` names the first field that is wrong, and never repeats what was sent."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # The names of unknown fields are the sender's, and as long as the sender likes.
    path = ".".join(str(part)[:60] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise ApiError(400, f"unknown field '{path}'", param=path, code="unknown_field")
    message = first["msg"].replace("Input should be", "wanted").removeprefix("Value error, ")
    raise ApiError(400, f"{path}: {message}" if path else message, param=path or None, code=first["type"])
