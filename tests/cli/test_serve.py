"""`nano-think serve`: a process that answers OpenAI's own client, and ends well."""

import json
import signal
import time

import openai
import pytest

from nano_think.experts import EXPERTS
from tests.conftest import Commands

CHAT = {"model": "nano_think", "messages": [{"role": "user", "content": "In the beginning"}], "max_tokens": 12}


@pytest.fixture(scope="module")
def server(nano_run, tmp_path_factory):
    """The process and the address that it says."""
    command = Commands(tmp_path_factory.mktemp("serve"))
    process = command.start("serve", "--root", nano_run.root, "--port", 0, "--memory", "off")
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), process.stderr.read()
        yield process, line.split()[-1]
    finally:
        command.kill_all()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server[1] + "v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.mark.parametrize(("flag", "value"), [("--namespace", "../x"), ("--answer", "0")])
def test_flags_that_no_request_could_use_are_refused(say, flag, value):
    told = say("serve", "--port", 0, flag, value)
    assert told.code == 2 and value in told.err


@pytest.mark.slow
def test_openais_client_streams(client):
    """Text piece by piece, log-probabilities, counts, and the weights of the experts as a field of their own."""
    options = {"include_usage": True}
    *pieces, counts = client.chat.completions.create(
        **CHAT, stream=True, stream_options=options, seed=1, logprobs=True, top_logprobs=2
    )
    said = [piece.choices[0] for piece in pieces if piece.choices[0].delta.content]
    assert len(said) > 1 and counts.usage.completion_tokens == len(said) <= 12
    assert pieces[-1].choices[0].finish_reason in ("length", "stop")
    for piece in said:
        (token,) = piece.routing
        assert token["weights"].keys() == EXPERTS.keys()
        assert sum(token["weights"].values()) == pytest.approx(1, abs=0.01)
        assert piece.logprobs.content[0].logprob <= piece.logprobs.content[0].top_logprobs[0].logprob <= 0


@pytest.mark.slow
def test_the_same_seed_says_the_same_streamed_or_whole(client):
    whole = client.chat.completions.create(**CHAT, seed=5).choices[0].message.content
    stream = client.chat.completions.create(**CHAT, seed=5, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in stream) == whole


@pytest.mark.slow
def test_openais_client_completes_and_lists(client):
    told = client.completions.create(model="nano_think", prompt="In the", max_tokens=5, temperature=0, logprobs=1)
    again = client.completions.create(model="nano_think", prompt="In the", max_tokens=5, temperature=0)
    assert told.choices[0].text == again.choices[0].text
    assert [model.id for model in client.models.list()] == ["nano_think"]


@pytest.mark.slow
def test_openais_client_knows_our_refusals(client):
    with pytest.raises(openai.NotFoundError, match="gpt"):
        client.chat.completions.create(**CHAT | {"model": "gpt"})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**CHAT, temperature=9)


@pytest.mark.slow
def test_sigterm_ends_it_in_good_order(server, client):
    """A stream under way ends, or is told why; 143, no traceback, within five seconds of the signal."""
    process, _ = server
    stream = client.chat.completions.create(**CHAT | {"max_tokens": 4000}, stream=True)
    next(stream)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(openai.APIError, match="stopping"):
        list(stream)
    out, err = process.communicate(timeout=30)
    print(json.dumps({"seconds_to_end": time.monotonic() - started}))
    assert process.returncode == 143
    assert "Traceback" not in err and out == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_this_machine_is_refused_without_a_key(say, host, monkeypatch):
    monkeypatch.delenv("NANO_THINK_API_KEY", raising=False)
    told = say("serve", "--host", host)
    assert told.code == 2 and "NANO_THINK_API_KEY" in told.err and told.err.count("\n") == 1


def test_port_in_use_is_told(say):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = say("serve", "--port", taken.getsockname()[1])
    assert told.code == 2 and "cannot listen" in told.err and told.err.count("\n") == 1
