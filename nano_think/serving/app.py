"""The application: which path does what.

Bodies are read here and not by FastAPI, which would buffer, convert and report them in its own way.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nano_think import __version__
from nano_think.inference.ranking import lowest
from nano_think.inference.request import Event
from nano_think.inference.request import Request as Wanted
from nano_think.serving.answers import Answer
from nano_think.serving.asking import Served, competing, from_chat, from_completion
from nano_think.serving.errors import ApiError, json_response, to_json
from nano_think.serving.guard import Guard
from nano_think.serving.recall import Recall
from nano_think.serving.schema import Asked, ChatRequest, CompletionRequest, read
from nano_think.serving.worker import Ticket, Worker

PAGE = Path(__file__).parent / "page"
FILES = ("page.css", "page.js", "speech.js", "tint.js", "memory.js", "settings.js", "icon.svg")


def create_app(
    served: Served, worker: Worker, recall: Recall | None = None, names: tuple[str, ...] = (), key: str = ""
) -> ASGIApp:
    """The ASGI application, behind its guard; its lifespan starts and ends the worker's thread."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None, title="nano_think", version=__version__)
    _answer_errors(app)
    _add_page(app)
    _add_models(app, served, worker)
    _add_answers(app, served, worker)
    if recall:
        _add_memory(app, recall, worker)
    return Guard(app, served.limits, names, key)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, error.detail, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> Response:
        return ApiError(500, "our own mistake; the server's log says more").response()


def _add_page(app: FastAPI) -> None:
    def add(path: str, file: str) -> None:
        @app.get(path)
        async def send() -> FileResponse:
            return FileResponse(PAGE / file, headers={"cache-control": "no-cache"})

    add("/", "index.html")
    for file in FILES:
        add(f"/{file}", file)


def _add_models(app: FastAPI, served: Served, worker: Worker) -> None:
    about = {"id": served.name, "object": "model", "created": 0, "owned_by": "nano_think"}
    about |= {"experts": list(served.experts), "context_window": served.window, "digest": served.digest}
    about |= {"memory": served.memory, "namespace": served.namespace or None}
    about |= {"psyche": list(served.dials), "figures": list(served.figures)}

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [about]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != served.name:
            raise ApiError(404, f"no such model here; there is '{served.name}'", code="model_not_found")
        return json_response(about)

    @app.get("/health")
    async def health() -> Response:
        state = {"status": "stopping" if worker.draining else "ok", "requests": worker.busy}
        return json_response(state, 503 if worker.draining else 200)


def _add_answers(app: FastAPI, served: Served, worker: Worker) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        worker.check_room()
        asked = read(ChatRequest, await request.body())
        # To read a long conversation takes a while, in which others are answered.
        wanted = await asyncio.to_thread(from_chat, asked, served)
        return await _respond(request, worker, competing(wanted, asked, served), asked, _answer(asked, served, True))

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        worker.check_room()
        asked = read(CompletionRequest, await request.body())
        wanted = await asyncio.to_thread(from_completion, asked, served)
        return await _respond(request, worker, competing(wanted, asked, served), asked, _answer(asked, served, False))


def _answer(asked: ChatRequest | CompletionRequest, served: Served, chat: bool) -> Answer:
    return Answer(served=served, prompt=0, chat=chat, likeliest=asked.likeliest)


async def _respond(
    request: Request, worker: Worker, wanted: Sequence[Wanted], asked: Asked, answer: Answer
) -> Response:
    answer.prompt = len(wanted[0].prompt)
    if asked.stream:
        return Stream(worker, worker.enter(wanted[0]), answer, asked.with_usage)
    events = await _collect(request, worker, wanted)
    if events[-1].finish == "error":
        raise ApiError(503, events[-1].error, code="unfinished")
    return json_response(answer.whole(events))


class Stream(StreamingResponse):
    """An answer as it comes. Its place, which was taken before the status is told, is given back however it ends."""

    def __init__(self, worker: Worker, ticket: Ticket, answer: Answer, usage: bool):
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_stream(worker, ticket, answer, usage), media_type="text/event-stream", headers=headers)
        self._leave = partial(worker.leave, ticket)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _stream(worker: Worker, ticket: Ticket, answer: Answer, usage: bool) -> AsyncGenerator[bytes, None]:
    """Server-sent events: a piece for each token, then the counts if asked for, or an error; `[DONE]` at the end."""
    try:
        async with contextlib.aclosing(worker.answer(ticket)) as events:
            if answer.chat:
                yield _event(answer.first())
            async for event in events:
                if event.finish == "error":
                    raise ApiError(503, event.error, code="unfinished")
                yield _event(answer.piece(event))
        if usage:
            yield _event(answer.last())
    except ApiError as error:
        yield _event(error.body)
    yield b"data: [DONE]\n\n"


def _event(value: Any) -> bytes:
    return f"data: {to_json(value)}\n\n".encode()


async def _collect(request: Request, worker: Worker, wanted: Sequence[Wanted]) -> list[Event]:
    """All events of an answer, of several the best; when the client hangs up before the last, they are cancelled."""

    async def hear(ticket: Ticket) -> list[Event]:
        async with contextlib.aclosing(worker.answer(ticket)) as events:
            return [event async for event in events]

    with contextlib.ExitStack() as places:
        tickets = [_enter(worker, one, places) for one in wanted]
        hearing, leaving = asyncio.gather(*map(hear, tickets)), asyncio.create_task(_gone(request))
        places.callback(hearing.cancel)
        places.callback(leaving.cancel)
        await asyncio.wait((hearing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            return lowest(hearing.result())
        raise ApiError(499, "the client has hung up")


def _enter(worker: Worker, wanted: Wanted, places: contextlib.ExitStack) -> Ticket:
    """A place for a request, which is given back with the others."""
    ticket = worker.enter(wanted)
    places.callback(worker.leave, ticket)
    return ticket


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_memory(app: FastAPI, recall: Recall, worker: Worker) -> None:
    """What a namespace remembers, and its erasure. Both run between two steps of the engine, which writes there."""

    @app.get("/v1/memory/{namespace}")
    async def remembered(namespace: str) -> Response:
        return json_response(await worker.call(lambda: recall.show(namespace)))

    @app.delete("/v1/memory/{namespace}")
    async def forget_all(namespace: str) -> Response:
        return json_response(await worker.call(lambda: recall.forget(namespace)))

    @app.delete("/v1/memory/{namespace}/{document}")
    async def forget(namespace: str, document: int) -> Response:
        return json_response(await worker.call(lambda: recall.forget(namespace, document)))
