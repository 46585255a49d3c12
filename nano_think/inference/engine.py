"""The engine: many requests token by token, with the weights of the experts beside each.

K experts, V vocabulary
"""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from nano_think.core.errors import NanoThinkError, UsageError
from nano_think.inference.context import Context
from nano_think.inference.detokenizer import TextStream
from nano_think.inference.request import Event, Finish, Request
from nano_think.inference.sampling import draw
from nano_think.models.think import NanoThink


class Bytes(Protocol):
    """Of a tokenizer, what the engine needs."""

    def token_bytes(self, token: int) -> bytes: ...


class Engine:
    """Answers requests, up to `rows` of them at once; the others wait in the order in which they came.

    `step` draws one token for each running request, and between two steps requests join and leave. An answer does not
    depend on who else is answered (up to rounding): every request draws with a generator of its own seed.

    One thread owns an engine: it alone calls `step` and `stream`. `submit` and `cancel` may be called from any thread;
    they only leave a note for the next step.
    """

    def __init__(self, model: NanoThink, tokenizer: Bytes, window: int, rows: int = 8):
        self.model, self.tokenizer, self.window, self.rows = model, tokenizer, window, rows
        self._ids = itertools.count(1)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._cancelled: deque[int] = deque()

    @property
    def names(self) -> list[str]:
        """The experts' names, in the order of `Event.weights`."""
        return self.model.names

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._running or self._waiting)

    def submit(self, request: Request) -> int:
        """Take a request in and return its id; `UsageError` for what this model cannot answer."""
        vocabulary = len(self.model.head.table)
        for name, ids in (("prompt", request.prompt), ("stop_tokens", request.stop_tokens)):
            wrong = [token for token in ids if not 0 <= token < vocabulary]
            if wrong:
                raise UsageError(f"{name}: wanted ids from 0 to {vocabulary - 1}, got {wrong[0]}")
        running = _Running(next(self._ids), request)
        self._waiting.append(running)
        return running.id

    def cancel(self, request: int) -> None:
        """End a request at the next step, with one last event; nothing happens if it has ended already."""
        self._cancelled.append(request)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token of each running request, and the ends of those that ended."""
        events = self._drop_cancelled()
        while self._waiting and len(self._running) < self.rows:
            self._running.append(self._waiting.popleft())
        for one in self._running:
            events.append(self._advance(one))
        self._running = [one for one in self._running if not one.ended]
        return events

    def stream(self, request: Request) -> Iterator[Event]:
        """The events of one request as they come; who stops reading cancels it. Others are answered meanwhile, but
        their events are lost: for an engine that nobody else uses.
        """
        wanted, finish = self.submit(request), None
        try:
            while finish is None:
                for event in self.step():
                    if event.request == wanted:
                        finish = event.finish
                        yield event
        finally:
            if finish is None:
                self.cancel(wanted)
                self.step()

    def _drop_cancelled(self) -> list[Event]:
        names = {self._cancelled.popleft() for _ in range(len(self._cancelled))}
        dropped = [one for one in (*self._running, *self._waiting) if one.id in names]
        for one in dropped:
            (self._running if one in self._running else self._waiting).remove(one)
        return [Event(request=one.id, text=one.text.end(), finish="cancelled") for one in dropped]

    def _advance(self, one: "_Running") -> Event:
        """One more token of a request, or its end."""
        try:
            one.context = one.context or Context(self.model, self.window)
            routed = one.context.predict(one.tokens)
            return one.take(self.model.logits(routed)[0, -1], routed.weights[0, -1], self.model, self.tokenizer)
        except NanoThinkError as error:
            one.ended = True
            return Event(request=one.id, text=one.text.end(), finish="error", error=str(error))


class _Running:
    """A request that is being answered."""

    def __init__(self, id: int, request: Request):
        self.id, self.request, self.tokens = id, request, list(request.prompt)
        self.text, self.ended = TextStream(request.stop), False
        self.context: Context | None = None
        self.generator = torch.Generator().manual_seed(request.sampling.seed)

    @property
    def left(self) -> int:
        """How many more tokens may be written."""
        return len(self.request.prompt) + self.request.max_new_tokens - len(self.tokens)

    def take(self, logits_V: Tensor, weight_K: Tensor, model: NanoThink, tokenizer: Bytes) -> Event:
        """Draw the next token; the event that tells of it."""
        token = draw(logits_V, self.request.sampling, self.generator, self._seen(model.start_token))
        if token == model.start_token or token in self.request.stop_tokens:
            self.ended = True
            return Event(request=self.id, text=self.text.end(), finish="stop")
        self.tokens.append(token)
        text, finish = self.text.feed(tokenizer.token_bytes(token)), self._finish()
        if finish:
            self.ended = True
            text += self.text.end()
            finish = self._finish()
        told = log_probabilities(logits_V, token, self.request.logprobs)
        weights = tuple(weight_K.tolist())
        return Event(request=self.id, token=token, text=text, **told, weights=weights, finish=finish)

    def _seen(self, start_token: int) -> set[int]:
        """What a repetition penalty makes less likely: never the end."""
        return set() if self.request.sampling.repetition_penalty == 1 else {*self.tokens} - {start_token}

    def _finish(self) -> Finish | None:
        return "stop" if self.text.stopped else "length" if self.left == 0 else None


def log_probabilities(logits_V: Tensor, token: int, likeliest: int | None) -> dict:
    """The fields of an event that tell how likely its token was."""
    if likeliest is None:
        return {}
    log_p_V = logits_V.float().log_softmax(dim=-1)
    top = log_p_V.topk(min(likeliest, len(log_p_V)))
    pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return {"logprob": float(log_p_V[token]), "top": pairs}
