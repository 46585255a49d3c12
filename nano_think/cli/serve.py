"""`nano-think serve`: an OpenAI-compatible server and a page to talk on."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.core.device import Device
from nano_think.core.errors import UsageError
from nano_think.inference.request import Memory
from nano_think.inference.sampling import SamplingConfig
from nano_think.serving.config import KEY, Limits, check_exposure

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from nano_think.serving.worker import Worker


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Answer over HTTP: /v1/chat/completions, /v1/completions and /v1/models as OpenAI's, and a page under /.

    Beyond this machine only with a key, in the environment variable NANO_THINK_API_KEY.
    """

    model: str = "latest"
    """"latest" (the newest mixture under --root), "chat-latest" (the newest chat model), or the folder of one."""
    root: Path = Path("artifacts")
    """Artifact root."""
    device: Device = "auto"
    """Device; "auto" takes CUDA, then MPS, then the CPU."""
    compile: bool = False
    """Compile the model's steps by torch.compile before the first answer; meant for a GPU."""
    host: str = "127.0.0.1"
    """Address to listen on; other machines can reach 0.0.0.0."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free (TCP)."""
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
    _check(wanted)
    try:
        from nano_think.serving.server import address, listen, serve
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; install it with: pip install 'nano_think[serve]'") from None
    with contextlib.ExitStack() as held:
        listening = held.enter_context(listen(wanted.host, wanted.port))
        app, worker = _assemble(wanted, key, held)
        print(f"listening on {address(listening, wanted.host)}", flush=True)
        return serve(app, worker, wanted.limits, listening)


def _check(wanted: ServeArguments) -> None:
    """`UsageError` for what would else be found with each request that leaves it open."""
    from nano_think.memory.places import place

    if wanted.answer < 1:
        raise UsageError(f"--answer: wanted at least 1, got {wanted.answer}")
    if wanted.namespace:
        place(wanted.root, "", wanted.namespace)


def _assemble(wanted: ServeArguments, key: str, held: contextlib.ExitStack) -> "tuple[ASGIApp, Worker]":
    """The application of a model and the thread of its engine; the memories that it opens are closed with `held`."""
    from nano_think.memory.namespaces import Namespaces
    from nano_think.models.chat import dials_of, tells_of
    from nano_think.serving.app import create_app
    from nano_think.serving.asking import Served
    from nano_think.serving.recall import Recall
    from nano_think.serving.worker import Worker
    from nano_think.stages.opening import open_model

    opened = open_model(wanted.model, wanted.root, wanted.device)
    served = Served(
        name="nano_think", digest=opened.artifact.digest, experts=tuple(opened.model.names),
        dials=tuple(dials_of(opened.model)), figures=tuple(tells_of(opened.model)),
        tokenizer=opened.tokenizer, window=opened.shape.window, limits=wanted.limits, sampling=wanted.sampling,
        answer=wanted.answer, memory=wanted.memory, namespace=wanted.namespace,
    )  # fmt: skip
    namespaces = Namespaces(wanted.root, opened.owner)
    held.callback(namespaces.close)
    worker = Worker(opened.engine(wanted.limits.running, namespaces, wanted.compile), wanted.limits)
    return create_app(served, worker, Recall(namespaces, opened.tokenizer), wanted.allow_host, key), worker
