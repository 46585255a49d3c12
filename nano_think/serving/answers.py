"""From the engine's events to OpenAI's answers, whole or piece by piece.

Each choice has fields of our own: `routing`, for each token its text and how much each expert was trusted with it, and
where it ends `means`, the same of the answer as a whole. What a model's parts tell stands in both as `figures`. An
answer that stands and could not be remembered has `warning`, which says so.
"""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.means import mean_figures, mean_weights
from nano_think.inference.request import Event
from nano_think.serving.asking import Served

FINISH = {"stop": "stop", "length": "length"}


@dataclass(kw_only=True)
class Answer:
    """What is common to all pieces of an answer, and the count of what has been said. `chat`: to a chat or a text."""

    served: Served
    prompt: int
    """Tokens of the prompt."""
    chat: bool
    likeliest: int | None
    """Whether log-probabilities are told: none, or beside how many likeliest tokens."""
    said: int = 0
    """Tokens of the answer so far."""
    length: int = 0
    """Characters of the answer so far."""
    heard: list[Event] = field(default_factory=list)
    """The answer so far."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> dict[str, int]:
        both = self.prompt + self.said
        return {"prompt_tokens": self.prompt, "completion_tokens": self.said, "total_tokens": both}

    def whole(self, events: Sequence[Event]) -> dict[str, Any]:
        """The answer that all events make together."""
        text = "".join(event.text for event in events)
        choice = self._choice(events, {"message": {"role": "assistant", "content": text}} if self.chat else None, text)
        return self._frame("", [choice]) | {"usage": self.usage} | _warning(events)

    def first(self) -> dict[str, Any]:
        """The piece before the first token of a chat, which says who speaks."""
        return self._frame(".chunk", [self._choice([], {"delta": {"role": "assistant", "content": ""}}, "")])

    def piece(self, event: Event) -> dict[str, Any]:
        """One token of a stream."""
        delta = {"delta": {"content": event.text} if event.text or event.token is not None else {}}
        return self._frame(".chunk", [self._choice([event], delta if self.chat else None, event.text)]) | _warning(
            [event]
        )

    def last(self) -> dict[str, Any]:
        """The piece after the last token, for whoever asked for the counts."""
        return self._frame(".chunk", []) | {"usage": self.usage}

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = f"chat.completion{kind}" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        about = {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.served.name}
        return about | {"system_fingerprint": self.served.digest[:12], "choices": choices}

    def _choice(self, events: Sequence[Event], content: dict[str, Any] | None, text: str) -> dict[str, Any]:
        finish = next((FINISH[event.finish] for event in events if event.finish in FINISH), None)
        spoken = [event for event in events if event.token is not None]
        told = {"index": 0, **(content if content is not None else {"text": text})}
        told |= {"logprobs": self._logprobs(events), "finish_reason": finish, "routing": self._routing(spoken)}
        self.said, self.length = self.said + len(spoken), self.length + len(text)
        self.heard += events
        return told | ({"means": self._told(mean_weights(self.heard), mean_figures(self.heard))} if finish else {})

    def _routing(self, spoken: Iterable[Event]) -> list[dict[str, Any]]:
        return [{"text": event.text, **self._told(event.weights, event.figures)} for event in spoken]

    def _told(self, weights: Sequence[float], figures: Mapping[str, float]) -> dict[str, Any]:
        """Weights of the experts by name; figures, where there are any."""
        pairs = zip(self.served.experts, weights, strict=True) if weights else ()
        told = {"weights": {name: round(weight, 4) for name, weight in pairs}}
        return told | ({"figures": {name: round(value, 4) for name, value in figures.items()}} if figures else {})

    def _logprobs(self, events: Sequence[Event]) -> dict[str, Any] | None:
        if self.likeliest is None:
            return None
        spoken = [event for event in events if event.token is not None]
        make = chat_logprobs if self.chat else text_logprobs
        return make(spoken, self.served.tokenizer, self.length)


def _warning(events: Sequence[Event]) -> dict[str, str]:
    return {"warning": events[-1].error} if events[-1].error else {}


def chat_logprobs(spoken: Sequence[Event], tokenizer: Tokenizer, _: int) -> dict[str, Any]:
    """The log-probabilities of tokens (nats) as chats tell them."""

    def told(token: int, logprob: float | None) -> dict[str, Any]:
        data = tokenizer.token_bytes(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

    def entry(event: Event) -> dict[str, Any]:
        assert event.token is not None
        return told(event.token, event.logprob) | {"top_logprobs": [told(*pair) for pair in event.top]}

    return {"content": [entry(event) for event in spoken], "refusal": None}


def text_logprobs(spoken: Sequence[Event], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """The log-probabilities of tokens (nats) as completions tell them; `offset`: characters before the first."""
    tokens = [tokenizer.decode([event.token]) for event in spoken if event.token is not None]
    offsets = []
    for event in spoken:
        offsets.append(offset)
        offset += len(event.text)
    return {
        "tokens": tokens,
        "token_logprobs": [event.logprob for event in spoken],
        "top_logprobs": [{tokenizer.decode([token]): logprob for token, logprob in event.top} for event in spoken],
        "text_offset": offsets,
    }
