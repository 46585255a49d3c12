"""`prefect deployment run full-pipeline` for full-pipeline/full-pipeline: Prefect itself wants both halves of a name.

Prefect loads this by its entry point where prefect.toml switches plug-ins on. The hook is public, the method that it
wraps is not: on any surprise it does nothing, and Prefect says what it says without us. It changes what one command
looks up, in the process of that command alone.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook

COMMAND = ["deployment", "run"]


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Called by Prefect when it is imported."""
    with contextlib.suppress(Exception):
        if Path(sys.argv[0]).stem in ("prefect", "__main__") and sys.argv[1:3] == COMMAND:
            _install()


def _install() -> None:
    from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

    wrapped = _both_halves(DeploymentAsyncClient.read_deployment_by_name)
    DeploymentAsyncClient.read_deployment_by_name = wrapped  # type: ignore[method-assign]


def _both_halves(read: Callable[..., Any]) -> Callable[..., Any]:
    """A way to read a deployment by name that takes "x" for "x/x"."""

    @functools.wraps(read)
    async def read_deployment_by_name(self: Any, name: str) -> Any:
        return await read(self, name if "/" in name else f"{name}/{name}")

    return read_deployment_by_name
