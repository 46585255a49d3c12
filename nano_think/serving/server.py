"""From a folder to a listening server: the model is opened, the port is taken, and a signal ends both in good order."""

import asyncio
import signal
import socket

import uvicorn
from starlette.types import ASGIApp

from nano_think.core.errors import UsageError
from nano_think.serving.config import Limits, is_loopback
from nano_think.serving.connections import patient
from nano_think.serving.worker import Worker


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port (0: any that is free); `UsageError` where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {host}, port {port} ({reason}); choose another --port") from None


def address(listening: socket.socket, host: str) -> str:
    """Where a browser on this machine finds the page."""
    name = "127.0.0.1" if not is_loopback(host) else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets the worker end what is under way while new requests are told 503."""

    def __init__(self, config: uvicorn.Config, worker: Worker):
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._worker.drain()
        await super().shutdown(sockets)


def configure(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """uvicorn with our patience, and without what we do not need of it."""
    return uvicorn.Config(
        app, http=patient(limits), ws="none", lifespan="on", access_log=False, server_header=False,
        log_level="error", timeout_graceful_shutdown=1, timeout_keep_alive=5, proxy_headers=False,
    )  # fmt: skip


def serve(app: ASGIApp, worker: Worker, limits: Limits, listening: socket.socket) -> int:
    """Answer until SIGINT or SIGTERM; the exit code, 130 or 143; 1 where it could not start."""
    server = Server(configure(app, limits), worker)
    try:
        # uvicorn raises the signal once more when all is done, for whoever waits for it.
        server.run(sockets=[listening])
    except KeyboardInterrupt as stop:
        return 128 + int(getattr(stop, "signum", signal.SIGINT))
    except asyncio.CancelledError:
        pass
    return 0 if server.started else 1
