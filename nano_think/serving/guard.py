"""What stands before the application: who may ask, from where, how much and how slowly.

A page on another site can make a browser send requests here (CSRF), and can make its own name mean this machine (DNS
rebinding). The first bring another Origin, the second another Host: both are refused. No header of ours allows another
site to read an answer.
"""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nano_think.serving.config import Limits
from nano_think.serving.errors import ApiError

SAFE = {"GET", "HEAD"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware. `names`: the hosts by which this server may be called besides localhost and plain addresses."""

    def __init__(self, app: ASGIApp, limits: Limits, names: Collection[str] = (), key: str = ""):
        self.app, self.limits = app, limits
        self.names = {"localhost", *(name.lower() for name in names)}
        self.key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
            async with asyncio.timeout(self.limits.seconds + self.limits.header_seconds):
                await self.app(scope, Body(receive, self.limits), send_safely)
        except (ApiError, TimeoutError) as error:
            if not started:
                refused = error if isinstance(error, ApiError) else ApiError(503, "the time for an answer is over")
                await refused.response()(scope, receive, send_safely)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._known(host):
            raise ApiError(403, "this server does not answer to that Host", code="host")
        if method not in SAFE or path.startswith("/v1/"):
            self._check_origin(host, headers)
        if self.key and path.startswith("/v1/"):
            self._check_key(headers.get("authorization", ""))
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "wanted a body of the type application/json", code="content_type")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body:
            raise too_large(self.limits)

    def _known(self, host: str) -> bool:
        """Whether a Host may be ours. Rebinding needs a name: an address is always what the browser really asked."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def _check_origin(self, host: str, headers: Headers) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower())
        if foreign or site in ("cross-site", "same-site"):
            raise ApiError(403, "requests from other sites are not answered", code="origin")

    def _check_key(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        # Both are compared, and in constant time, so that the time taken tells nothing of the key.
        same = hmac.compare_digest(given.strip().encode(errors="replace"), self.key)
        if scheme.lower() != "bearer" or not same:
            headers = {"www-authenticate": "Bearer"}
            raise ApiError(401, "wanted an API key: Authorization: Bearer KEY", code="invalid_api_key", headers=headers)


class Body:
    """A request's `receive` that refuses a body which is too large or too slow, before it has been read whole."""

    def __init__(self, receive: Receive, limits: Limits):
        self._receive, self._limits = receive, limits
        self._read, self._whole = 0, False
        self._deadline = time.monotonic() + limits.header_seconds

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            slow = f"the body took longer than {self._limits.header_seconds:g} s"
            raise ApiError(408, slow, code="timeout") from None
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        if self._read > self._limits.body:
            raise too_large(self._limits)
        return message


def too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is larger than {limits.body:,} bytes", code="body_too_large")
