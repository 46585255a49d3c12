"""The engine: many requests token by token, with the weights of the experts beside each.

K experts, V vocabulary, R requests, T tokens, D model width
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from nano_think.core.errors import NanoThinkError, StorageError, UsageError
from nano_think.inference.detokenizer import TextStream
from nano_think.inference.drafting import Drafter
from nano_think.inference.remembering import Memories, Turn
from nano_think.inference.request import Event, Finish, Request, expect_dials
from nano_think.inference.sampling import accept, distribution, draw
from nano_think.inference.slots import Slots
from nano_think.models.chat import Model, dials_of, figures_of, tells_of


class Bytes(Protocol):
    """Of a tokenizer, what the engine needs."""

    def token_bytes(self, token: int) -> bytes: ...


class Engine:
    """Answers requests, up to `rows` of them at once; the others wait in the order in which they came.

    `step` draws one token for each running request, and between two steps requests join and leave. An answer does not
    depend on who else is answered (up to rounding): every request draws with a generator of its own seed. Without
    `memories` every request is answered as with its memory off. With a `drafter`, which is for an engine of one row, a
    step may bring several tokens: other draws of the same distribution, and the same tokens where nothing is drawn.
    `compiled`: steps go through `torch.compile`, which is meant for a GPU; where it cannot be had, a line says why.

    One thread owns an engine: it alone calls `step` and `stream`. `submit` and `cancel` may be called from any thread;
    they only leave a note for the next step.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Bytes,
        window: int,
        rows: int = 8,
        memories: Memories | None = None,
        drafter: Drafter | None = None,
        compiled: bool = False,
    ):
        assert drafter is None or rows == 1, "drafts are for one text at a time"
        self.drafter = drafter
        self.model, self.tokenizer, self.window, self.rows, self.memories = model, tokenizer, window, rows, memories
        self._ids = itertools.count(1)
        self._waiting: deque[_Running] = deque()
        self._running: dict[int, _Running] = {}
        self._slots = Slots(model, window, rows, compiled)
        self._cancelled: deque[int] = deque()

    @property
    def names(self) -> list[str]:
        """The experts' names, in the order of `Event.weights`."""
        return self.model.names

    @property
    def dials(self) -> list[str]:
        """What requests may steer (`Request.psyche`)."""
        return dials_of(self.model)

    @property
    def figures(self) -> list[str]:
        """What the model's parts tell (`Event.figures`)."""
        return tells_of(self.model)

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
        expect_dials(request.psyche, self.dials)
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
        for slot in range(self.rows):
            while slot not in self._running and self._waiting:
                events += self._begin(slot, self._waiting.popleft())
        if self._running:
            events += self._advance()
        for slot in [slot for slot, one in self._running.items() if one.ended]:
            self._leave(slot)
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
        dropped = [one for one in self._waiting if one.id in names]
        for one in dropped:
            self._waiting.remove(one)
        for slot in [slot for slot, one in self._running.items() if one.id in names]:
            dropped.append(self._leave(slot))
        return [Event(request=one.id, text=one.text.end(), finish="cancelled") for one in dropped]

    def _begin(self, slot: int, one: "_Running") -> list[Event]:
        """Let a request in, unless its memory cannot be opened: then that is its end, and no other request's."""
        try:
            one.turn = self.memories.begin(one.request, self.model) if self.memories else None
        except (NanoThinkError, OSError) as error:
            failure = as_failure(error, one.request.namespace)
            return [Event(request=one.id, finish="error", error=str(failure), failure=failure)]
        self._running[slot] = one
        return []

    def _leave(self, slot: int) -> "_Running":
        self._slots.leave(slot)
        one = self._running.pop(slot)
        if one.turn:
            one.turn.close()
        return one

    def _advance(self) -> list[Event]:
        """One more token of every running request, or its end; with a drafter perhaps more."""
        if self.drafter:
            ((slot, one),) = self._running.items()
            most = min(self.drafter.tokens, self._slots.room(slot, one.tokens), one.left - 1)
            if most > 0:
                return self._judge(self.drafter, slot, one, most)
        texts = {slot: one.tokens for slot, one in self._running.items()}
        steered = {slot: one.request.psyche for slot, one in self._running.items()}
        begun = {slot: one.turn.begun for slot, one in self._running.items() if one.turn}
        last, new = self._slots.predict(texts, steered, begun)
        # Drawn on the CPU, whose generators give the same numbers everywhere.
        logits_RV, weights = self.model.logits_of_rows(last).cpu(), last.weights[:, 0].tolist()
        figures = {name: values[:, 0].tolist() for name, values in figures_of(self.model, last).items()}
        rows, events = zip(self._running.values(), logits_RV.unbind(), weights, new, strict=True), []
        for place, (one, logits_V, weight, hidden_TD) in enumerate(rows):
            logits_V = one.remember(logits_V, hidden_TD)
            token = draw(logits_V, one.request.sampling, one.generator, one.seen(self.model.start_token))
            event = one.take(token, logits_V, weight, self.model, self.tokenizer)
            own = {name: values[place] for name, values in figures.items()}
            events.append(one.conclude(replace(event, figures=own) if own else event))
        return events

    def _judge(self, drafter: Drafter, slot: int, one: "_Running", most: int) -> list[Event]:
        """Up to `most` guesses and one token more, as far as the guesses are kept; at least one token, or its end."""
        sampling, generator = one.request.sampling, one.generator
        guesses = drafter.guess(self._slots, slot, one.tokens[-1], most, sampling, generator)
        tried = [one.tokens[-1], *(guess.token for guess in guesses)]
        found, new = self._slots.try_on(slot, tried)
        logits_RV, weights = self.model.logits_of_rows(found).cpu(), found.weights[:, 0].tolist()
        kept, events = 0, list[Event]()
        for n, guess in enumerate([*guesses, None]):
            logits_V, seen = one.remember(logits_RV[n], new[n]), one.seen(self.model.start_token)
            if guess is None:
                token = draw(logits_V, sampling, generator, seen)
            else:
                token = accept(distribution(logits_V, sampling, seen), guess.q_V, guess.token, generator)
            events.append(one.conclude(one.take(token, logits_V, weights[n], self.model, self.tokenizer)))
            agreed = guess is not None and token == guess.token
            kept += agreed
            if one.ended or not agreed:
                break
        self._slots.settle(slot, tried, stay=1 + kept)
        drafter.tally.add(len(guesses), kept)
        return events


class _Running:
    """A request that is being answered."""

    def __init__(self, id: int, request: Request):
        self.id, self.request, self.tokens = id, request, list(request.prompt)
        self.text, self.ended = TextStream(request.stop), False
        self.generator = torch.Generator().manual_seed(request.sampling.seed)
        self.turn: Turn | None = None

    @property
    def left(self) -> int:
        """How many more tokens may be written."""
        return len(self.request.prompt) + self.request.max_new_tokens - len(self.tokens)

    def remember(self, logits_V: Tensor, hidden_TD: Tensor) -> Tensor:
        """The logits with what is remembered, behind the tokens that were read now."""
        if self.turn is None:
            return logits_V
        self.turn.note(hidden_TD, len(self.tokens))
        return self.turn.mix(logits_V, hidden_TD[-1])

    def conclude(self, event: Event) -> Event:
        """Leave the turn behind in the memory when it is finished; the answer stands if the disk refuses."""
        if self.turn is None or not self.ended:
            return event
        try:
            self.turn.finish(self.tokens)
        except (NanoThinkError, OSError) as error:
            failure = as_failure(error, self.request.namespace)
            return replace(event, error=str(failure), failure=failure)
        return event

    def take(self, token: int, logits_V: Tensor, weight_K: list[float], model: Model, tokenizer: Bytes) -> Event:
        """Go on by a token that was drawn; the event that tells of it."""
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
        return Event(request=self.id, token=token, text=text, **told, weights=tuple(weight_K), finish=finish)

    def seen(self, start_token: int) -> set[int]:
        """What a repetition penalty makes less likely: never the end."""
        return set() if self.request.sampling.repetition_penalty == 1 else {*self.tokens} - {start_token}

    def _finish(self) -> Finish | None:
        return "stop" if self.text.stopped else "length" if self.left == 0 else None


def as_failure(error: NanoThinkError | OSError, namespace: str) -> NanoThinkError:
    """What went wrong with a memory, as an error that names it."""
    return StorageError(f"memory '{namespace}': {error}") if isinstance(error, OSError) else error


def log_probabilities(logits_V: Tensor, token: int, likeliest: int | None) -> dict:
    """The fields of an event that tell how likely its token was."""
    if likeliest is None:
        return {}
    log_p_V = logits_V.float().log_softmax(dim=-1)
    top = log_p_V.topk(min(likeliest, len(log_p_V)))
    pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return {"logprob": float(log_p_V[token]), "top": pairs}
