"""`nano-think chat`: talk to a trained mixture or chat model in the terminal."""

import contextlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.cli.conversation import Conversation
from nano_think.core.device import Device
from nano_think.core.errors import UsageError
from nano_think.inference.request import Memory, expect_dials, parse_dials
from nano_think.inference.sampling import SamplingConfig

HISTORY = 1000


@dataclass(frozen=True, kw_only=True)
class ChatArguments:
    """Talk. A line that ends in \\ goes on in the next; /help tells the rest."""

    model: str = "latest"
    """"latest" (the newest finished pipeline under --root), "chat-latest" (the newest chat model there), or the folder
    of a trained model."""
    root: Path = Path("artifacts")
    """Artifact root."""
    device: Device = "auto"
    """Device; "auto" takes CUDA, then MPS, then the CPU."""
    compile: bool = False
    """Compile the model's steps by torch.compile before the first answer; meant for a GPU."""
    max_new_tokens: int = 128
    """Longest answer (tokens)."""
    memory: Memory = "read-write"
    """Whether what the namespace remembers counts, and whether finished turns are remembered."""
    namespace: str = "default"
    """Whose memory it is."""
    psyche: str = ""
    """How far the modes of a chat model's psyche are turned up, as in id=-2,superego=4 (nats)."""
    best_of: int = 1
    """Of each turn write this many answers, with seeds one after another, and say the one of the lowest energy (texts);
    with more than one, --memory is off or read."""
    history: Path = Path("~/.nano_think_history")
    """Where lines that were typed are kept, for the arrow keys; /dev/null keeps none."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are drawn."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ChatArguments, "chat", arguments)
    if wanted.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens: wanted at least 1, got {wanted.max_new_tokens}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        # What is no UTF-8 becomes U+FFFD, and the conversation goes on.
        sys.stdin.reconfigure(errors="replace")
    if wanted.best_of < 1:
        raise UsageError(f"--best-of: wanted at least 1, got {wanted.best_of}")
    with contextlib.ExitStack() as held:
        conversation = _open(wanted, held)
        if sys.stdin.isatty():
            held.enter_context(_remembering_lines(wanted.history.expanduser()))
            print(f"{', '.join(conversation.talker.names)}; /help tells what can be done, Ctrl-D ends it")
        _talk(conversation)
    return 0


def _open(wanted: ChatArguments, held: contextlib.ExitStack) -> Conversation:
    from nano_think.inference.ranking import check_best_of
    from nano_think.memory.namespaces import Namespaces
    from nano_think.models.chat import dials_of
    from nano_think.stages.opening import open_model
    from nano_think.stages.talking import Talker

    opened = open_model(wanted.model, wanted.root, wanted.device)
    psyche = parse_dials(wanted.psyche)
    expect_dials(psyche, dials_of(opened.model))
    namespaces = Namespaces(wanted.root, opened.owner)
    held.callback(namespaces.close)
    rows = min(wanted.best_of, 8)
    talker = Talker(opened, opened.engine(rows=rows, conversations=namespaces, compiled=wanted.compile))
    if wanted.best_of > 1:
        check_best_of(talker.figures, wanted.memory)
    return Conversation(
        talker=talker, namespaces=namespaces, sampling=wanted.sampling,
        max_new_tokens=wanted.max_new_tokens, memory=wanted.memory, namespace=wanted.namespace, psyche=psyche,
        best=wanted.best_of,
    )  # fmt: skip


def _talk(conversation: Conversation) -> None:
    """Lines from standard input, until its end or /quit."""
    while not conversation.over:
        try:
            text = _read()
        except EOFError:
            return
        if text.strip():
            conversation.take(text)


def _read() -> str:
    """What is typed, up to a line that does not end in a backslash."""
    prompt = "> " if sys.stdin.isatty() else ""
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(input("… " if prompt else ""))
    return "\n".join(lines)


@contextlib.contextmanager
def _remembering_lines(path: Path):
    """The arrow keys find what was typed, in this conversation and in those before."""
    import readline

    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
