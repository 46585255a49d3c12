"""What cannot be answered is refused with OpenAI's error object: never a 500, never our insides."""

import json

import pytest

from nano_think.inference.request import Event
from tests.serving.conftest import MODEL, asked, starting

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "a"}


def chat(**more):
    return CHAT, json.dumps(asked(CHAT, **more))


def text(**more):
    return TEXT, json.dumps(asked(TEXT, **more))


MALFORMED = {
    "nothing": (CHAT, ""),
    "torn": (CHAT, '{"model": "nano_think", "messages": ['),
    "number": (CHAT, "42"),
    "list": (CHAT, "[1, 2]"),
    "null": (CHAT, "null"),
    "text": (CHAT, '"hello"'),
    "deep": (CHAT, "[" * 100_000),
    "deep object": (CHAT, '{"messages":' * 50_000),
    "not utf-8": (CHAT, b'{"model": "\xe9\xff"}'),
    "half a pair": (CHAT, '{"model": "nano_think", "messages": [{"role": "user", "content": 1, "x\\ud800": 2}]}'),
    "model of half a pair": (CHAT, '{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}'),
    "two values": (CHAT, "{} {}"),
    "no model": (CHAT, '{"messages": [{"role": "user", "content": "a"}]}'),
    "unknown model": chat(model="gpt-4"),
    "no messages": (CHAT, json.dumps({"model": MODEL})),
    "empty messages": chat(messages=[]),
    "messages of text": chat(messages="hello"),
    "message of text": chat(messages=["hello"]),
    "too many messages": chat(messages=[USER] * 501),
    "no content": chat(messages=[{"role": "user"}]),
    "content of null": chat(messages=[{"role": "user", "content": None}]),
    "picture": chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}]),
    "unknown role": chat(messages=[{"role": "tool", "content": "a"}]),
    "last is not the user's": chat(messages=[USER, {"role": "assistant", "content": "b"}]),
    "system alone": chat(messages=[{"role": "system", "content": "a"}]),
    "n": chat(n=2),
    "n below 0": chat(n=-1),
    "temperature NaN": (CHAT, '{"model": "nano_think", "messages": [], "temperature": NaN}'),
    "temperature infinite": (CHAT, '{"model": "nano_think", "messages": [], "temperature": 1e999}'),
    "temperature below 0": chat(temperature=-1),
    "temperature too high": chat(temperature=3),
    "temperature of text": chat(temperature="hot"),
    "top_p of 0": chat(top_p=0),
    "no tokens": chat(max_tokens=0),
    "tokens below 0": chat(max_tokens=-1),
    "half a token": chat(max_tokens=1.5),
    "too many tokens": chat(max_tokens=10**6),
    "a number beyond all": chat(max_tokens=10**400),
    "seed below 0": chat(seed=-1),
    "seed too large": chat(seed=2**63),
    "empty stop": chat(stop=""),
    "stop of numbers": chat(stop=[1]),
    "too many stops": chat(stop=["a"] * 17),
    "logprobs of text": chat(logprobs="yes"),
    "too many logprobs": chat(logprobs=True, top_logprobs=21),
    "penalty": chat(presence_penalty=1),
    "tools": chat(tools=[{"type": "function"}]),
    "unknown field": chat(colour="blue"),
    "namespace upwards": chat(namespace="../alice"),
    "absolute namespace": chat(namespace="/etc"),
    "empty namespace": chat(namespace=""),
    "namespace of NUL": chat(namespace="a\0b"),
    "unknown memory": chat(memory="always"),
    "context too long": chat(messages=[{"role": "user", "content": "the word " * 500}]),
    "two prompts": text(prompt=["a", "b"]),
    "ids out of range": text(prompt=[10**6]),
    "ids below 0": text(prompt=[-1]),
    "special ids": text(prompt=[279]),
    "echo": text(echo=True),
    "best of two": text(best_of=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tokenizer):
    """Each case's answer, all from one server, which then still answers."""
    headers = {"content-type": "application/json"}
    with starting(tokenizer) as start:
        server = start()
        send = server.client.post
        yield {name: send(path, content=body, headers=headers) for name, (path, body) in MALFORMED.items()}
        assert server.ask().status_code == 200


def test_there_are_forty_and_more():
    assert len(MALFORMED) >= 40


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_is_refused(told, name):
    answer = told[name]
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    assert len(error["message"]) < 300
    assert not any(word in answer.text for word in ("Traceback", "pydantic", ".py"))


def test_context_error_tells_both_numbers(serving):
    server = serving(window=20)
    answer = server.ask(messages=[{"role": "user", "content": "the word " * 50}])
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "20 tokens" in answer.text and str(len(server.engine.tokenizer.encode("the word " * 50)) + 4) in answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("GET", "/v1/chat/completions"), ("PUT", "/health")])
def test_unknown_paths_and_methods(serving, method, path):
    answer = serving().client.request(method, path)
    assert answer.status_code in (404, 405) and answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/../cli/serve.py", "/..%2f..%2fpyproject.toml", "/page.css/..%2fapp.py", "/app.py"])
def test_page_gives_no_other_file(serving, path):
    assert serving().client.get(path).status_code == 404


def test_what_an_engine_tells_of_this_machine_stays_here(serving, caplog):
    server = serving()

    def fail():
        server.engine.cancel(1)
        return [Event(request=1, finish="error", error="no space on /a/secret/place")]

    server.engine.step = fail
    answer = server.ask()
    assert answer.status_code == 503 and "secret" not in answer.text and "secret" in caplog.text


def test_engines_own_mistake_ends_its_requests_and_no_others(serving, caplog):
    server = serving()
    step = server.engine.step
    server.engine.step = lambda: 1 / 0
    answer = server.ask()
    server.engine.step = step
    assert answer.status_code == 503 and "division" not in answer.text
    assert server.ask().status_code == 200
