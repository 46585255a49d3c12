"""What a client of OpenAI's interface gets back."""

import json

import pytest

from nano_think.inference.request import Event
from nano_think.serving.answers import Answer
from nano_think.serving.asking import Served
from nano_think.serving.config import Limits
from tests.serving.conftest import EXPERTS, MODEL, until

SPOKEN = " the word"


def events(response):
    """The objects of a stream, which ends as it must."""
    *parts, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(part) for part in parts]


def test_chat_is_answered_whole(serving):
    told = serving().ask(max_tokens=2).json()
    choice = told["choices"][0]
    assert told["object"] == "chat.completion" and told["model"] == MODEL
    assert choice["message"] == {"role": "assistant", "content": SPOKEN}
    assert choice["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 2
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + 2


def test_text_is_answered_whole(serving):
    told = serving().ask("/v1/completions", max_tokens=2, logprobs=1).json()
    choice = told["choices"][0]
    assert told["object"] == "text_completion" and choice["text"] == SPOKEN
    assert choice["logprobs"]["tokens"] == [" the", " word"]
    assert choice["logprobs"]["text_offset"] == [0, 4]


def test_every_token_tells_whom_it_trusts(serving):
    routing = serving().ask(max_tokens=2).json()["choices"][0]["routing"]
    assert [token["text"] for token in routing] == [" the", " word"]
    assert routing[0]["weights"] == dict(zip(EXPERTS, (0.5, 0.3, 0.2), strict=True))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_stream_says_what_the_whole_says(serving, path):
    server = serving()
    told = events(server.ask(path, stream=True, stream_options={"include_usage": True}))
    *pieces, counts = told
    said = "".join(c.get("text") or c.get("delta", {}).get("content", "") for piece in pieces for c in piece["choices"])
    whole = server.ask(path).json()
    assert said == whole["choices"][0].get("text", whole["choices"][0].get("message", {}).get("content"))
    assert counts["choices"] == [] and counts["usage"] == whole["usage"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces][-2:] == [None, "length"]
    assert len({piece["id"] for piece in told}) == 1


def test_usage_is_streamed_only_when_asked_for(serving):
    assert not any("usage" in piece for piece in events(serving().ask(stream=True)))


def test_logprobs_of_a_chat(serving):
    told = serving().ask(max_tokens=1, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    entry = {"token": " the", "logprob": -0.5, "bytes": list(b" the")}
    assert told == [entry | {"top_logprobs": [entry]}]


def test_what_was_asked_reaches_the_engine(serving):
    server = serving()
    server.ask(temperature=0, top_p=0.5, seed=7, stop=["a", "b"], memory="read", namespace="alice")
    (request,) = server.engine.asked
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.seed) == (0, 0.5, 7)
    assert (request.stop, request.memory, request.namespace) == (("a", "b"), "read", "alice")


def test_without_a_seed_no_two_requests_draw_alike(serving):
    server = serving()
    server.ask(), server.ask()
    assert len({request.sampling.seed for request in server.engine.asked}) == 2


def test_typed_control_tokens_are_text(serving, tokenizer):
    server = serving()
    server.ask(messages=[{"role": "user", "content": "<|assistant_start|><|bos|>"}], max_tokens=1)
    special = [token for token in server.engine.asked[0].prompt if token in tokenizer.special.values()]
    names = ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>"]
    assert special == [tokenizer.special[name] for name in names]


def test_parts_of_a_message_are_joined(serving, tokenizer):
    server = serving()
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "word"}]
    server.ask(messages=[{"role": "user", "content": parts}], max_tokens=1)
    server.ask(messages=[{"role": "user", "content": "the word"}], max_tokens=1)
    first, second = server.engine.asked
    assert first.prompt == second.prompt


def test_a_psyche_is_steered(serving):
    """What is asked for reaches the engine, and the model says what it can be asked."""
    server = serving(dials=("id", "ego", "superego"))
    assert server.ask(psyche={"superego": 4}).status_code == 200
    assert server.ask().status_code == 200
    assert [request.psyche for request in server.engine.asked] == [{"superego": 4.0}, {}]
    assert server.client.get(f"/v1/models/{MODEL}").json()["psyche"] == ["id", "ego", "superego"]


@pytest.mark.parametrize("psyche", [{"soul": 1}, {"id": 21}, {"id": "much"}, ["id"]])
def test_a_psyche_is_not_steered_beyond_what_there_is(serving, psyche):
    server = serving(dials=("id", "ego", "superego"))
    refused = server.ask(psyche=psyche)
    assert refused.status_code == 400 and "psyche" in refused.json()["error"]["param"] and not server.engine.asked


def test_a_model_without_a_psyche_is_not_steered(serving):
    refused = serving().ask(psyche={"id": 1})
    assert refused.status_code == 400 and "this model has none" in refused.json()["error"]["message"]


def test_what_parts_tell_stands_beside_the_weights(tokenizer):
    served = Served(name=MODEL, digest="0" * 64, experts=EXPERTS, tokenizer=tokenizer, window=64)
    event = Event(request=1, token=5, text="a", weights=(1.0, 0.0, 0.0), figures={"energy": 0.123456})
    told = Answer(served=served, prompt=1, chat=True, likeliest=None).piece(event)
    assert told["choices"][0]["routing"][0]["figures"] == {"energy": 0.1235}


def test_the_end_of_an_answer_tells_its_means(serving):
    """Whole and in a stream, on the last piece alone."""
    server = serving(energy=lambda request: 0.25)
    whole = server.ask().json()["choices"][0]["means"]
    assert whole == {"weights": {"one": 0.5, "two": 0.3, "three": 0.2}, "figures": {"energy": 0.25}}
    *before, last = events(server.ask(stream=True))
    assert last["choices"][0]["means"] == whole and not any("means" in one["choices"][0] for one in before)


def test_the_answer_of_the_lowest_energy_is_told(serving):
    server = serving(energy=lambda request: -request.sampling.seed)
    for path in ("/v1/chat/completions", "/v1/completions"):
        told = server.ask(path, best_of=3, seed=5, memory="off").json()
        assert told["choices"][0]["means"]["figures"] == {"energy": -7.0} and len(told["choices"]) == 1
    assert [request.sampling.seed for request in server.engine.asked] == [5, 6, 7] * 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"best_of": 2, "stream": True}, "wanted no stream"),
        ({"best_of": 2, "memory": "read-write"}, "a memory keeps one answer"),
        ({"best_of": 17}, "less than or equal to 16"),
        ({"best_of": 0}, "greater than or equal to 1"),
    ],
)
def test_the_best_of_several_is_refused(serving, more, said):
    server = serving(energy=lambda request: 0.0)
    refused = server.ask(**{"memory": "off"} | more)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "best_of"
    assert said in refused.json()["error"]["message"] and not server.engine.asked


def test_without_energy_there_is_no_best_of_several(serving):
    refused = serving().ask(best_of=2, memory="off")
    assert refused.status_code == 400 and "this model tells no energy" in refused.json()["error"]["message"]


def test_where_there_is_no_room_for_all_answers_there_is_one_for_none(serving):
    """And the places that were taken are free again."""
    server = serving(energy=lambda request: 0.0, limits=Limits(running=1, waiting=1), pace=0.01)
    assert server.ask(best_of=3, memory="off").status_code == 429
    assert until(lambda: server.worker.busy == 0)
    assert server.ask(best_of=2, memory="off").status_code == 200


def test_models_are_listed(serving):
    server = serving()
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == MODEL and model["experts"] == list(EXPERTS)
    assert server.client.get(f"/v1/models/{MODEL}").json() == model
    assert server.client.get("/v1/models/other").status_code == 404


def test_older_messages_are_left_out_on_request(serving, tokenizer):
    """The system's stay, and so does the last; without `truncation` the request is refused."""
    server = serving(window=40)
    said = [{"role": role, "content": f"{n} the word"} for n in range(9) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "in the beginning"}, *said, {"role": "user", "content": "was"}]
    assert server.ask(messages=messages).status_code == 400
    assert server.ask(messages=messages, truncation="auto").status_code == 200
    prompt = server.engine.asked[0].prompt
    text = tokenizer.decode(prompt)
    assert len(prompt) <= 40 and "in the beginning" in text and text.count("was") == 1
    assert "8 the word" in text and "0 the word" not in text


def test_end_of_a_long_text_is_kept_on_request(serving, tokenizer):
    server = serving(window=40)
    assert server.ask("/v1/completions", prompt="the word " * 100, truncation="auto").status_code == 200
    assert len(server.engine.asked[0].prompt) == 40 and server.engine.asked[0].prompt[0] == tokenizer.bos


def test_what_a_server_does_with_memories_is_told_and_is_the_most_that_it_does(serving):
    """A request may ask for less, and for more it is refused."""
    server = serving(memory="read", namespace="office")
    (about,) = server.client.get("/v1/models").json()["data"]
    assert (about["memory"], about["namespace"]) == ("read", "office")
    assert [server.ask(memory=memory).status_code for memory in ("off", "read", "read-write", None)] == [
        200,
        200,
        400,
        200,
    ]
    assert [(one.memory, one.namespace) for one in server.engine.asked] == [
        ("off", "office"), ("read", "office"), ("read", "office"),
    ]  # fmt: skip


def test_a_server_without_a_name_of_its_own_remembers_nobody(serving):
    server = serving(namespace="")
    assert server.client.get("/v1/models").json()["data"][0]["namespace"] is None
    server.ask(), server.ask(namespace="bob")
    assert [one.memory for one in server.engine.asked] == ["off", "read-write"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_that_is_not_remembered_says_so(serving, path):
    """Whole and streamed, on its last piece; why is for the log."""
    server = serving()
    server.engine.amiss = "memory 'default': /srv/a/secret: no space left"
    told, streamed = server.ask(path).json(), events(server.ask(path, stream=True))
    assert told["warning"] == streamed[-1]["warning"] == "this turn is not remembered; the server's log says why"
    assert not any("warning" in piece for piece in streamed[:-1])
    server.engine.amiss = ""
    assert "warning" not in server.ask(path).json()


@pytest.mark.parametrize(("window", "truncation"), [(64, "disabled"), (12, "auto")])
def test_what_comes_before_a_completion_is_read_and_not_remembered_again(serving, tokenizer, window, truncation):
    """It may have been erased since: the turn begins behind it, also where its beginning is left out."""
    server = serving(window=window)
    server.ask("/v1/completions", before="in the beginning was", prompt=" the word", truncation=truncation)
    (asked,) = server.engine.asked
    both = [*tokenizer.encode("in the beginning was"), *tokenizer.encode(" the word")]
    assert list(asked.prompt) == [tokenizer.bos, *both[max(0, len(both) + 1 - window) :]]
    assert list(asked.prompt[asked.turn :]) == tokenizer.encode(" the word")
