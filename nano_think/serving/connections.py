"""Connections that are not allowed to wait for ever: uvicorn's protocol with a clock on the head of each request, and
on answers that are not read.
"""

import asyncio
from collections import defaultdict
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from nano_think.serving.config import Limits


class Waiting:
    """The connections of each address, the one that has been silent longest first; and which of them may be closed."""

    def __init__(self, most: int):
        self.most = most
        self._of: dict[str, dict[PatientProtocol, None]] = defaultdict(dict)

    def enter(self, address: str, connection: "PatientProtocol") -> None:
        """Take a new connection in; beyond the limit the oldest that waits for a request goes, or else the new one."""
        mine = self._of[address]
        mine[connection] = None
        if len(mine) > self.most:
            next(one for one in mine if one.waits and not one.transport.is_closing()).transport.close()

    def leave(self, address: str, connection: "PatientProtocol") -> None:
        self._of[address].pop(connection, None)
        if not self._of[address]:
            del self._of[address]


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; a head that is not complete in time closes the connection, and so does a client
    that reads nothing.

    `limits` and `waiting` are set on a subclass, made for each server by `patient`.
    """

    limits: Limits
    waiting: Waiting
    _clock: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether no request is under way: nothing has come, or a part of a head, or the last answer is complete."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.waiting.enter(self._address, self)
        self._wind()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.waits:
            self._wind()
        elif self._clock:
            self._clock.cancel()
            self._clock = None

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in filter(None, (self._clock, self._unread)):
            clock.cancel()
        self.waiting.leave(self._address, self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More waits to be sent than a client takes: it has so long to read on, and is then gone."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def _wind(self) -> None:
        """Start the clock, unless it runs: further bytes of a head gain no time."""
        if self._clock is None:
            self._clock = self.loop.call_later(self.limits.header_seconds, self._close)

    def _close(self) -> None:
        self._clock = None
        if self.waits:
            self.transport.close()


def patient(limits: Limits) -> type[PatientProtocol]:
    """The protocol of one server."""
    return type("Protocol", (PatientProtocol,), {"limits": limits, "waiting": Waiting(limits.connections)})
