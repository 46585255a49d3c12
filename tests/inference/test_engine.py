"""Requests that come and go, and the tokens and texts of their answers."""

import pytest
import torch

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.request import Event, Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.inference.slots import context_start
from nano_think.models.think import NanoThink
from tests.tiny import START, tiny_mixture

GREEDY = SamplingConfig(temperature=0.0)


class Letters:
    """A tokenizer whose ids are capital letters and what follows them."""

    def token_bytes(self, token: int) -> bytes:
        return bytes([65 + token])


def never_ending(model: NanoThink) -> NanoThink:
    """The same model, to which the start token is impossible."""
    model.head.bias[START] = -1e9
    return model


def engine(model: NanoThink | None = None, window: int = 64, **settings) -> Engine:
    return Engine(model or never_ending(tiny_mixture()), Letters(), window, **settings)


def request(*prompt: int, most: int = 9, sampling: SamplingConfig = GREEDY, **settings) -> Request:
    return Request(prompt=(START, *prompt), max_new_tokens=most, sampling=sampling, **settings)


def answer(events: list[Event]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def all_answers(engine: Engine) -> dict[int, list[Event]]:
    """Step until nothing is left to do; the events by request."""
    found: dict[int, list[Event]] = {}
    while engine.busy:
        for event in engine.step():
            found.setdefault(event.request, []).append(event)
    return found


@pytest.mark.parametrize("router", ["expert", "expert probability"])
def test_greedy_text_is_the_best_token_each_time_with_its_weights(router: str):
    """Every step is the model's answer to the whole context, and reports the weights that it was predicted with."""
    model, tokens, window = never_ending(tiny_mixture(router)), [START, 3, 4], 5
    events = list(engine(model, window).stream(request(3, 4)))
    for event in events:
        with torch.no_grad():
            routed = model(torch.tensor([tokens[context_start(len(tokens), window) :]]))
        assert event.token == int(model.logits(routed)[0, -1].argmax())
        assert event.weights == pytest.approx(routed.weights[0, -1].tolist(), abs=1e-6)
        assert sum(event.weights) == pytest.approx(1.0, abs=1e-5)
        tokens.append(event.token)
    assert [event.finish for event in events] == [None] * 8 + ["length"]
    assert "".join(event.text for event in events) == "".join(chr(65 + event.token) for event in events)


def text(seed: int) -> list[int]:
    sampling = SamplingConfig(seed=seed)
    return answer(list(engine().stream(request(3, 4, most=30, sampling=sampling))))


def test_same_seed_same_text_whatever_else_draws():
    first = text(seed=1)
    torch.rand(7)
    assert text(seed=1) == first and len(first) == 30
    assert text(seed=2) != first


def test_a_new_document_ends_the_text():
    model = tiny_mixture()
    model.head.bias.zero_()[START] = 1e6
    (event,) = engine(model).stream(request(3, 4))
    assert (event.token, event.text, event.finish) == (None, "", "stop")


def test_a_stop_token_ends_the_text_and_is_no_part_of_it():
    *before, third = answer(list(engine().stream(request(3, 4, most=3))))
    stopping = third if third not in before else before[0]
    events = list(engine().stream(request(3, 4, stop_tokens=(stopping,))))
    assert stopping not in answer(events) and events[-1].finish == "stop" and events[-1].token is None


def test_a_stop_string_ends_the_text_before_it():
    letters = "".join(event.text for event in engine().stream(request(3, 4)))
    stop = letters[3:5]
    events = list(engine().stream(request(3, 4, stop=(stop,))))
    assert "".join(event.text for event in events) == letters[: letters.index(stop)]
    assert events[-1].finish == "stop" and events[-1].token is not None


def test_requests_join_and_leave_between_tokens():
    """Answers of different lengths that begin at different times are those of each request alone."""
    asked = [request(*range(n), most=most) for n, most in [(2, 9), (11, 3), (5, 6), (7, 1), (3, 8)]]
    alone = [answer(list(engine().stream(one))) for one in asked]
    shared = engine(rows=2)
    first = [shared.submit(one) for one in asked[:3]]
    events = shared.step() + shared.step()
    assert [event.request for event in events] == [first[0], first[1]] * 2
    names = first + [shared.submit(one) for one in asked[3:]]
    assert (shared.running, shared.waiting) == (2, 3)
    rest = all_answers(shared)
    for name, wanted in zip(names, alone, strict=True):
        assert answer([e for e in events if e.request == name] + rest.get(name, [])) == wanted


def test_a_cancelled_request_ends_with_what_was_held_back():
    shared = engine()
    ids = [shared.submit(request(n, most=50, stop=("A" * 9,))) for n in (1, 2, 3)]
    shared.step()
    shared.cancel(ids[1])
    events = shared.step()
    assert [event.finish for event in events if event.request == ids[1]] == ["cancelled"]
    assert shared.running == 2
    shared.cancel(ids[1])
    shared.cancel(999)
    assert {event.request for event in shared.step()} == {ids[0], ids[2]}


def test_a_waiting_request_can_be_cancelled():
    shared = engine(rows=1)
    first, second = (shared.submit(request(n, most=5)) for n in (1, 2))
    shared.cancel(second)
    found = all_answers(shared)
    assert [event.finish for event in found[second]] == ["cancelled"] and len(answer(found[first])) == 5


def test_who_stops_reading_cancels():
    """A reader who stops early does not pay for the rest."""
    one = engine()
    stream = one.stream(request(3, most=10**9))
    assert next(stream).token is not None
    stream.close()
    assert not one.busy


def test_log_probabilities_are_those_of_the_model():
    """Before temperature and cuts, of the drawn token and of the likeliest."""
    model, sampling = never_ending(tiny_mixture()), SamplingConfig(temperature=2.0, top_k=3)
    (event,) = engine(model).stream(request(3, 4, most=1, sampling=sampling, logprobs=4))
    with torch.no_grad():
        log_p_V = model.logits(model(torch.tensor([[START, 3, 4]])))[0, -1].log_softmax(-1)
    assert event.logprob == pytest.approx(log_p_V[event.token].item(), abs=1e-4)
    assert [token for token, _ in event.top] == log_p_V.topk(4).indices.tolist()
    assert [p for _, p in event.top] == pytest.approx(log_p_V.topk(4).values.tolist(), abs=1e-4)


def test_a_repetition_penalty_does_not_put_off_the_end():
    model = tiny_mixture()
    model.head.bias.zero_()[START] = 1e6
    sampling = SamplingConfig(temperature=0.0, repetition_penalty=1e9)
    assert answer(list(engine(model).stream(request(3, sampling=sampling)))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ()}, {"max_new_tokens": 0}, {"stop": ("",)}, {"stop": ("a",) * 17}, {"logprobs": -1},
        {"logprobs": 21}, {"prompt": (START, 50)}, {"prompt": (-1,)}, {"stop_tokens": (99,)},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        engine().submit(Request(**{"prompt": (START,)} | wrong))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("rows", [1, 2])
def test_compiled_steps_write_the_same(rows: int, capsys):
    """And what the kernels tell the compiler of their shapes is true."""
    model, asked = never_ending(tiny_mixture()), [request(3, 4), request(5)]
    answers = []
    for compiled in (False, True):
        one = engine(model, rows=rows, compiled=compiled)
        for each in asked:
            one.submit(each)
        answers.append([answer(events) for events in all_answers(one).values()])
    assert answers[0] == answers[1]
    assert "steps are compiled" in capsys.readouterr().err


def test_without_a_compiler_steps_are_as_ever(monkeypatch, capsys):
    """One line says why, and the texts of others that the trial has touched are none."""
    monkeypatch.setattr(torch, "compile", lambda step: lambda *_: 1 / 0)
    model = never_ending(tiny_mixture())
    plain, compiled = (answer(list(engine(model, **more).stream(request(3, 4)))) for more in ({}, {"compiled": True}))
    assert plain == compiled
    assert "steps are not compiled: ZeroDivisionError" in capsys.readouterr().err
