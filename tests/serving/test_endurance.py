"""Clients that are slow, greedy, many or gone."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psutil
import pytest

from nano_think.serving.config import Limits
from tests.serving.conftest import asked, until

SHORT = Limits(header_seconds=0.5)
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def closed(connection):
    """Whether the other side closes, whatever it says before."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_endless_body_is_refused_before_it_is_read(serving):
    """300 MB are offered; little of it is taken, and nothing of it kept."""
    server, sent = serving(), 0
    before = psutil.Process().memory_info().rss
    with connect(server) as client:
        client.sendall((HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            while sent < 300_000_000:
                client.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
    assert sent < 20_000_000
    assert psutil.Process().memory_info().rss - before < 20_000_000
    assert server.ask().status_code == 200


@pytest.mark.parametrize("length", ["1000001", "300000000", "-5", "many"])
def test_announced_size_is_refused_at_once(serving, length):
    with connect(serving()) as client:
        client.sendall((HEAD + f"Content-Length: {length}\r\n\r\n").encode())
        assert client.recv(65536).split(b" ")[1] in (b"413", b"400")
        assert closed(client)


def test_body_of_allowed_size_passes(serving):
    blank = " " * (1_000_000 - len(json.dumps(asked())) - 10)
    server = serving()
    headers = {"content-type": "application/json"}
    assert server.client.post("/v1/chat/completions", content=json.dumps(asked()) + blank, headers=headers).is_success


def test_half_open_connections_are_closed_and_others_answered(serving):
    """300 clients that never end their head (slow-loris)."""
    server = serving(limits=SHORT)
    clients = [connect(server) for _ in range(300)]
    for client in clients:
        client.sendall(HEAD.encode())
    assert server.client.get("/health").status_code == 200
    assert until(lambda: len(server.server.server_state.connections) <= SHORT.connections)
    assert all(closed(client) for client in clients)
    assert until(lambda: not [one for one in server.server.server_state.connections if one.cycle is None])
    for client in clients:
        client.close()


def test_drop_by_drop_gains_no_time(serving):
    """A byte now and then does not start the clock anew; nor on a connection that has been answered before."""
    server = serving(limits=SHORT)
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        try:
            while time.monotonic() - started < 20:
                client.sendall(b"G")
                time.sleep(0.05)
        except ConnectionError:
            return
    pytest.fail("still open")


def test_body_that_never_comes_is_refused(serving):
    with connect(serving(limits=SHORT)) as client:
        client.sendall((HEAD + "Content-Length: 10\r\n\r\n{").encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 408")
        assert closed(client)


def test_overload_is_told_to_come_back_and_what_was_accepted_is_finished(serving):
    server = serving(limits=Limits(running=4, waiting=12), pace=0.02)
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda _: server.ask(max_tokens=20), range(64)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429} and codes.count(200) >= 16
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert {answer.json()["error"]["type"] for answer in refused} == {"rate_limit_error"}
    assert until(lambda: server.worker.busy == 0)
    assert server.ask().status_code == 200


def test_streams_that_meet_at_the_last_place_are_let_in_or_refused_before_they_begin(serving):
    """Nobody who is told 200 is then told that there is no room."""
    server = serving(limits=Limits(running=1, waiting=1), pace=0.02)
    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(lambda _: server.ask(max_tokens=10, stream=True), range(24)))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert not any('"error"' in answer.text for answer in answers if answer.status_code == 200)
    assert until(lambda: server.worker.busy == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_frees_the_place(serving, stream):
    """Cancelled within a few tokens; nobody waits for what nobody reads."""
    server = serving(pace=0.01, limits=Limits(running=1, waiting=1))
    with connect(server) as client:
        body = json.dumps(asked(max_tokens=4000, stream=stream)).encode()
        client.sendall((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        assert until(lambda: server.engine.steps >= 3)
    assert until(lambda: server.engine.cancelled)
    assert server.engine.steps < 1000
    assert server.ask(max_tokens=2).status_code == 200


def test_an_answer_has_an_end(serving):
    """Beyond the time for a request: an error for the whole, an error event in a stream."""
    server = serving(pace=0.02, limits=Limits(seconds=0.3))
    assert server.ask(max_tokens=4000).status_code == 503
    streamed = server.ask(max_tokens=4000, stream=True).text
    assert '{"error":{' in streamed and streamed.endswith("data: [DONE]\n\n")


def test_who_does_not_read_is_dropped(serving):
    server = serving(limits=replace(SHORT, seconds=0.5, new_tokens=10**6))
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(asked(max_tokens=10**6, stream=True)).encode()
        client.sendall((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        assert until(lambda: server.worker.busy == 1)
        assert until(lambda: server.worker.busy == 0 and not server.server.server_state.tasks)


def test_who_does_not_read_frees_the_place_long_before_the_time_for_an_answer(serving):
    server = serving(limits=replace(Limits(), send_seconds=0.3, new_tokens=10**6))
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(asked(max_tokens=10**6, stream=True)).encode()
        client.sendall((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        assert until(lambda: server.worker.busy == 1)
        assert until(lambda: server.worker.busy == 0 and not server.server.server_state.connections, seconds=60)


def test_stopping_ends_streams_and_takes_nothing_new(serving):
    server = serving(pace=0.01, limits=Limits(drain_seconds=1.0))
    with server.client.stream("POST", "/v1/chat/completions", json=asked(max_tokens=4000, stream=True)) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.server.should_exit = True
        assert until(lambda: server.worker.draining)
        with httpx.Client(base_url=server.url, trust_env=False) as other:
            refused = other.post("/v1/chat/completions", json=asked())
            assert refused.status_code == 503 and "retry-after" in refused.headers
            assert other.get("/health").status_code == 503
        rest = [line for line in lines if line]
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["message"] == "the server is stopping"
    assert rest[-1] == "data: [DONE]"
    assert until(lambda: "engine" not in {thread.name for thread in threading.enumerate()})


def test_short_answers_are_finished_before_the_end(serving):
    server = serving(pace=0.01)
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(server.ask, max_tokens=50)
        assert until(lambda: server.engine.steps >= 2)
        server.server.should_exit = True
        assert answer.result().status_code == 200


def test_health_answers_while_tokens_are_made(serving):
    """The loop that answers never waits for a step."""
    server = serving(pace=0.5)
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(server.ask, max_tokens=3) for _ in range(4)]
        assert until(lambda: server.worker.busy == 4)
        steps = server.engine.steps
        assert server.client.get("/health").json() == {"status": "ok", "requests": 4}
        assert server.engine.steps <= steps + 1
        assert all(answer.result().status_code == 200 for answer in answers)
