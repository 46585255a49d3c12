"""A server in this process, behind a real socket, whose engine says what a test wants."""

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import httpx
import pytest

from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.inference.request import Event, Memory, Request
from nano_think.serving.app import create_app
from nano_think.serving.asking import Served
from nano_think.serving.config import Limits
from nano_think.serving.recall import Recall
from nano_think.serving.server import Server, configure, listen
from nano_think.serving.worker import Worker

TEXT = "In the beginning was the word, and the word was with all of them. " * 20
EXPERTS = ("one", "two", "three")
MODEL = "nano_think"
USUAL = Limits()


class Script:
    """An engine that says `words` over and over, one word of each request a step, and remembers what was asked.

    pace: seconds that a step takes. energy: what a request's answer is told to have.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        words: str = " the word",
        pace: float = 0.0,
        rows: int = 4,
        energy: Callable[[Request], float] | None = None,
    ):
        self.words, self.pace, self.rows, self.energy = tokenizer.encode(words), pace, rows, energy
        self.tokenizer, self.asked, self.cancelled, self.steps = tokenizer, [], [], 0
        self.amiss = ""
        self._ids, self._waiting, self._running = itertools.count(1), deque(), {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, request: Request) -> int:
        number = next(self._ids)
        self.asked.append(request)
        self._waiting.append((number, request))
        return number

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)
        self._running.pop(request, None)
        self._waiting = deque(one for one in self._waiting if one[0] != request)

    def step(self) -> list[Event]:
        time.sleep(self.pace)
        self.steps += 1
        while self._waiting and len(self._running) < self.rows:
            number, request = self._waiting.popleft()
            self._running[number] = [request, 0]
        return [self._say(number) for number in list(self._running)]

    def _say(self, number: int) -> Event:
        request, said = self._running[number]
        token = self.words[said % len(self.words)]
        self._running[number][1] = said + 1
        last = said + 1 == request.max_new_tokens
        if last:
            del self._running[number]
        logprobs = {} if request.logprobs is None else {"logprob": -0.5, "top": ((token, -0.5),)[: request.logprobs]}
        return Event(
            request=number, token=token, text=self.tokenizer.decode([token]), weights=(0.5, 0.3, 0.2),
            finish="length" if last else None, error=self.amiss if last else "",
            figures={"energy": self.energy(request)} if self.energy else {}, **logprobs,
        )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=280), iter([TEXT]), folder)
    return Tokenizer.load(folder)


class Running:
    """A server under way: its address, its engine, its worker and a client for it."""

    def __init__(self, engine: Script, worker: Worker, server: Server, port: int):
        self.engine, self.worker, self.server, self.port = engine, worker, server, port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def ask(self, path: str = "/v1/chat/completions", **more: object) -> httpx.Response:
        """A request with what it needs, and `more`."""
        return self.client.post(path, json=asked(path, **more))


def asked(path: str = "/v1/chat/completions", **more: object) -> dict[str, object]:
    what = {"messages": [{"role": "user", "content": "the word"}]} if "chat" in path else {"prompt": "the word"}
    return {"model": MODEL, "max_tokens": 6, **what, **more}


@contextlib.contextmanager
def starting(tokenizer: Tokenizer) -> Iterator[Callable[..., Running]]:
    """Start servers, which all end with the block."""
    with contextlib.ExitStack() as ends:

        def start(
            limits: Limits = USUAL,
            key: str = "",
            names: tuple[str, ...] = (),
            recall: Recall | None = None,
            window: int = 64,
            memory: Memory = "read-write",
            namespace: str = "default",
            dials: tuple[str, ...] = (),
            **script: object,
        ) -> Running:
            engine = Script(tokenizer, rows=limits.running, **script)  # type: ignore[arg-type]
            worker = Worker(engine, limits)
            figures = ("energy",) if engine.energy else ()
            served = Served(
                name=MODEL, digest="0" * 64, experts=EXPERTS, tokenizer=tokenizer, window=window, limits=limits,
                memory=memory, namespace=namespace, dials=dials, figures=figures,
            )  # fmt: skip
            listening = listen("127.0.0.1", 0)
            server = Server(configure(create_app(served, worker, recall, names, key), limits), worker)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            running = Running(engine, worker, server, listening.getsockname()[1])
            ends.callback(thread.join)
            ends.callback(setattr, server, "should_exit", True)
            ends.callback(running.client.close)
            return running

        yield start


@pytest.fixture
def serving(tokenizer: Tokenizer) -> Iterator[Callable[..., Running]]:
    """Start a server: `serving(pace=0.01, limits=Limits(waiting=1))`."""
    with starting(tokenizer) as start:
        yield start


def until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())
