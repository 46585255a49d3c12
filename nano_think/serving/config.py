"""How a server listens and what it allows."""

import ipaddress
from dataclasses import dataclass

from nano_think.core.config import Config
from nano_think.core.errors import UsageError

KEY = "NANO_THINK_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits(Config):
    """What one request may take, and how many there may be."""

    body: int = 1_000_000
    """Largest body of a request (bytes)."""
    messages: int = 500
    """Most messages of a chat (messages)."""
    new_tokens: int = 4096
    """Longest answer (tokens)."""
    running: int = 16
    """Requests that are answered side by side (requests)."""
    waiting: int = 16
    """Requests that may wait for their turn; more are told to come back (429)."""
    seconds: float = 300.0
    """Longest time that a request may take, the waiting included (seconds)."""
    header_seconds: float = 10.0
    """Longest time until the head of a request is complete, and then until its body is (seconds)."""
    send_seconds: float = 30.0
    """Longest time that a client may leave what it is sent unread (seconds)."""
    connections: int = 64
    """Open connections of one address; beyond, the one that has been silent longest is closed (connections)."""
    drain_seconds: float = 4.0
    """After a signal to stop: how long running answers may go on (seconds)."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"limits.{name}: wanted more than 0, got {getattr(self, name)}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, key: str) -> None:
    """Refuse to listen beyond this machine without a key: whoever reaches the port could read what is remembered."""
    if not is_loopback(host) and not key:
        raise UsageError(
            f"--host {host}: can be reached from other machines; set the environment variable {KEY} to a secret that "
            "every request must then bring, or listen on 127.0.0.1"
        )
