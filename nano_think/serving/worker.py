"""One thread owns the engine; the event loop hands it requests and gets tokens back, and neither waits for the other.

Everything that the thread does for the loop is a function that it takes from one queue between two steps, so that
requests join and leave between tokens. What is counted and decided (how many there are, who is refused) is decided in
the loop, at once.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from nano_think.core.console import clean
from nano_think.core.errors import NanoThinkError
from nano_think.inference.request import Event, Request
from nano_think.serving.config import Limits
from nano_think.serving.errors import ApiError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Steps(Protocol):
    """What is used of an `Engine`."""

    @property
    def busy(self) -> bool: ...
    def submit(self, request: Request) -> int: ...
    def step(self) -> list[Event]: ...
    def cancel(self, request: int) -> None: ...


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that was accepted, and the events that have come of it."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    number: int | None = None
    """The engine's number; set and read by the engine's thread alone."""
    timer: asyncio.TimerHandle | None = None


class Worker:
    """The engine's thread, as the event loop sees it: all methods but the private ones of the thread are the loop's."""

    def __init__(self, engine: Steps, limits: Limits):
        self.limits, self.draining = limits, False
        self._engine, self._inbox = engine, queue.SimpleQueue[Callable[[], None] | None]()
        self._open: set[Ticket] = set()
        self._running: dict[int, Ticket] = {}
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def busy(self) -> int:
        """Requests that were accepted and are not finished."""
        return len(self._open)

    async def answer(self, ticket: Ticket) -> AsyncGenerator[Event, None]:
        """The events of a request, the last with `finish`; then its place is free. Leaving the loop over them early
        cancels the request.
        """
        try:
            while True:
                event = await ticket.events.get()
                if event.finish:
                    self.leave(ticket)
                yield event
                if event.finish:
                    return
        finally:
            self.leave(ticket)

    def check_room(self) -> None:
        """`ApiError` where one more request would be refused."""
        if self.draining:
            raise ApiError(503, "the server is stopping", code="stopping", headers={"retry-after": "10"})
        if self.busy >= self.limits.running + self.limits.waiting:
            raise ApiError(429, f"{self.busy} requests are under way", code="busy", headers={"retry-after": "1"})

    def enter(self, request: Request) -> Ticket:
        """Take a request in, which `leave` must follow however it ends; `ApiError` where there is no room, or no more
        work is taken on.
        """
        self.check_room()
        ticket = Ticket(request)
        self._open.add(ticket)
        ticket.timer = self._loop.call_later(self.limits.seconds, self._end, ticket, "the time for an answer is over")
        self._inbox.put(partial(self._begin, ticket))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place of a request back, which is cancelled if it runs; nothing happens the second time."""
        if ticket not in self._open:
            return
        assert ticket.timer
        ticket.timer.cancel()
        self._open.discard(ticket)
        self._inbox.put(partial(self._cancel, ticket))

    def _end(self, ticket: Ticket, why: str) -> None:
        ticket.events.put_nowait(Event(request=-1, finish="error", error=why))

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` returns, run on the engine's thread between two steps."""
        done: asyncio.Future[T] = self._loop.create_future()

        def settle(tell: Callable[[], None]) -> None:
            # Whoever asked may have left.
            self._loop.call_soon_threadsafe(lambda: None if done.done() else tell())

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                settle(partial(done.set_exception, error))
            else:
                settle(partial(done.set_result, result))

        self._inbox.put(run)
        return await done

    async def drain(self) -> None:
        """Take no more work, let what is running end, and end after `drain_seconds` what has not."""
        self.draining = True
        try:
            async with asyncio.timeout(self.limits.drain_seconds):
                while self._open:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            for ticket in self._open:
                self._end(ticket, "the server is stopping")

    async def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # From here on: the engine's thread.

    def _work(self) -> None:
        while True:
            while not self._engine.busy or not self._inbox.empty():
                command = self._inbox.get()
                if command is None:
                    return
                command()
            self._step()

    def _begin(self, ticket: Ticket) -> None:
        try:
            ticket.number = self._engine.submit(ticket.request)
            self._running[ticket.number] = ticket
        except NanoThinkError as error:
            self._tell([(ticket, Event(request=-1, finish="error", error=str(error)))])

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.number in self._running:
            del self._running[ticket.number]
            self._engine.cancel(ticket.number)

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception:
            log.exception("the engine's step failed")
            events = [Event(request=number, finish="error", error="our own mistake") for number in self._running]
            for event in events:
                self._engine.cancel(event.request)
        told = [(self._running[one.request], _discreet(one)) for one in events if one.request in self._running]
        for _, event in told:
            if event.finish:
                del self._running[event.request]
        self._tell(told)

    def _tell(self, told: list[tuple[Ticket, Event]]) -> None:
        """One message to the loop for a whole step."""
        if told:
            self._loop.call_soon_threadsafe(_deliver, told)


def _discreet(event: Event) -> Event:
    """The event, without what an error of the engine tells of this machine: that is for the log."""
    if not event.error:
        return event
    what = "the answer failed" if event.finish == "error" else "this turn is not remembered"
    log.warning("%s: %s", what, clean(event.error))
    return replace(event, error=f"{what}; the server's log says why")


def _deliver(told: list[tuple[Ticket, Event]]) -> None:
    for ticket, event in told:
        ticket.events.put_nowait(event)
