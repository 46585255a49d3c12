"""What a request is told when it cannot be answered: OpenAI's error object, and nothing of our insides."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused. `param` names the field that is at fault, `code` the reason for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer; what is left of a body that was refused would be read as the next request, so it ends there."""
        close = {"connection": "close"} if self.status in (408, 413) else {}
        return json_response(self.body, self.status, {**(self.headers or {}), **close})


def to_json(value: Any) -> str:
    """JSON in ASCII: halves of surrogate pairs that somebody sent us could not be encoded otherwise."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")
