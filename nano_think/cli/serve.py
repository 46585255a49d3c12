"""`nano-think serve`: an OpenAI-compatible server and a page to talk on."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import UsageError
from nano_think.inference.request import Memory
from nano_think.inference.sampling import SamplingConfig
from nano_think.serving.config import KEY, Limits, check_exposure


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Answer over HTTP: /v1/chat/completions, /v1/completions and /v1/models as OpenAI's, and a page under /.

    Beyond this machine only with a key, in the environment variable NANO_THINK_API_KEY.
    """

    model: str = "latest"
    """"latest" (the newest finished pipeline under --root) or the folder of a trained router."""
    root: Path = Path("artifacts")
    """Artifact root."""
    host: str = "127.0.0.1"
    """Address to listen on; other machines can reach 0.0.0.0."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    allow_host: tuple[str, ...] = ()
    """Names by which requests may call this server, besides localhost and plain addresses."""
    memory: Memory = "read-write"
    """What a request does with the memory that says nothing of it."""
    namespace: str = "default"
    """Whose memory it then is; "" = no memory without a namespace in the request."""
    answer: int = 256
    """Longest answer where a request does not say (tokens)."""
    limits: Limits = field(default_factory=Limits)
    """What requests may take."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are drawn where a request does not say."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ServeArguments, "serve", arguments)
    key = os.environ.get(KEY, "")
    check_exposure(wanted.host, key)
    try:
        from nano_think.serving.server import address, listen
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; install it with: pip install 'nano_think[serve]'") from None
    listening = listen(wanted.host, wanted.port)
    with listening:
        return 0
