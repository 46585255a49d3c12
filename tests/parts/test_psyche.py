"""The three modes: how they are weighed, steered and what each learns from."""

import pytest
import torch

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.request import Request, parse_dials
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.chat import start_steered
from nano_think.nn.repeats import repeating_next
from nano_think.parts import Lesson
from nano_think.parts.psyche import MODES, Psyche
from tests.tiny import START, Words, draw_tokens, tiny_chat, tiny_part

GREEDY = SamplingConfig(temperature=0)


def test_a_psyche_is_what_its_modes_say_weighed():
    routed = tiny_chat(parts=["psyche"])(draw_tokens(2, 12))
    blended_BTD = (routed.weights[..., None] * routed.streams).sum(dim=2)
    torch.testing.assert_close(routed.hidden, blended_BTD)
    assert routed.weights.shape[-1] == len(MODES)


@torch.no_grad()
def test_a_mode_that_is_turned_up_speaks_alone():
    model, tokens_BT = tiny_chat(parts=["psyche"]), draw_tokens(2, 12)
    routed = model(tokens_BT, {"superego": 20.0})
    torch.testing.assert_close(routed.hidden, routed.streams[:, :, 2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_mode_that_is_turned_up_goes_on_in_its_direction():
    tokens_BT, dials = draw_tokens(2, 12), {"ego": -20.0, "superego": 20.0}
    body_BTD = tiny_chat()(tokens_BT).hidden
    learned_BTD, further_BTD = (
        tiny_chat(parts=["psyche"], beyond=share)(tokens_BT, dials).hidden - body_BTD for share in (0.0, 0.1)
    )
    torch.testing.assert_close(further_BTD, 3 * learned_BTD, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beyond", [0.0, 0.5])
def test_a_cache_is_steered_as_the_whole_text_is(beyond: float):
    model, tokens_BT = tiny_chat(parts=["psyche"], beyond=beyond), draw_tokens(2, 12)
    dials = {"id": 2.0, "ego": -1.0}
    cache = start_steered(model, 2, 12, dials)
    got = torch.cat([model.extend(part, cache).hidden for part in tokens_BT.split([5, 1, 6], 1)], dim=1)
    torch.testing.assert_close(got, model(tokens_BT, dials).hidden, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got, model(tokens_BT).hidden, atol=1e-3)


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """The tokens of requests that are answered beside each other."""
    ids, said = [engine.submit(request) for request in requests], {}
    while engine.busy:
        for event in engine.step():
            if event.token is not None:
                said.setdefault(event.request, []).append(event.token)
    return [said.get(one, []) for one in ids]


@pytest.mark.parametrize("beyond", [0.0, 0.5])
def test_requests_beside_each_other_are_steered_apart(beyond: float):
    """Each is answered as alone, also when its context has moved on and is read again."""
    model = tiny_chat(parts=["psyche"], beyond=beyond)
    requests = [
        Request(prompt=(START, 3, 4), max_new_tokens=40, sampling=GREEDY, psyche=dials)
        for dials in ({"id": 9.0}, {}, {"superego": 9.0})
    ]
    together = answers(Engine(model, Words(), window=24), requests)
    alone = [answers(Engine(model, Words(), window=24), [request])[0] for request in requests]
    assert together == alone and len({tuple(said) for said in together}) > 1


@torch.no_grad()
def test_an_answer_is_steered_as_the_whole_text_is():
    model, dials, text = tiny_chat(parts=["psyche"], beyond=0.5), {"superego": 4.0}, [START, 3, 4]
    requests = [Request(prompt=tuple(text), max_new_tokens=8, sampling=GREEDY, psyche=one) for one in (dials, {})]
    said, _ = answers(Engine(model, Words(), window=24), requests)
    for _ in range(8):
        logits_V = model.logits(model(torch.tensor([text]), dials))[0, -1]
        text.append(int(logits_V.index_fill(0, torch.tensor([START]), -torch.inf).argmax()))
    assert said == text[3:]


def test_weights_of_the_modes_are_told_with_each_token():
    engine = Engine(tiny_chat(parts=["psyche"]), Words(), window=24)
    events = list(engine.stream(Request(prompt=(START, 3), max_new_tokens=3, sampling=GREEDY, psyche={"ego": 20.0})))
    assert engine.names == list(MODES) and all(event.weights[1] > 0.99 for event in events if event.weights)


def test_an_unknown_mode_is_refused():
    engine = Engine(tiny_chat(parts=["psyche"]), Words(), window=24)
    with pytest.raises(UsageError, match=r"unknown 'superegos'; wanted id, ego, superego\. Did you mean 'superego'"):
        engine.submit(Request(prompt=(START,), psyche={"superegos": 1.0}))


def test_a_model_without_a_psyche_says_so():
    with pytest.raises(UsageError, match="this model has none; train one"):
        Engine(tiny_chat(), Words(), window=24).submit(Request(prompt=(START,), psyche={"id": 1.0}))


@pytest.mark.parametrize("text", ["id", "id=", "id=high", "=", "id=nan", "id=21", "id=1;ego=2"])
def test_what_is_no_steering_is_refused(text: str):
    with pytest.raises(UsageError, match="psyche: "):
        parse_dials(text)


def test_steering_is_read_off_the_command_line():
    assert parse_dials("id=-2,superego=4.5") == {"id": -2.0, "superego": 4.5} and parse_dials("") == {}


def lesson_of(windows: torch.Tensor, learned_BT: torch.Tensor) -> Lesson:
    model = tiny_chat()
    body_BTD = torch.randn(*learned_BT.shape, model.head.width, generator=torch.Generator().manual_seed(1))
    documents_BT = torch.zeros_like(learned_BT, dtype=torch.long)
    every_BT = torch.ones_like(learned_BT)
    body_BTD.requires_grad_()
    return Lesson(windows, documents_BT, learned_BT, every_BT, model.head, body_BTD, body_BTD, model.write)


def learned_by(part: Psyche, lesson: Lesson, term: str) -> list[bool]:
    part.zero_grad()
    part.losses(lesson)[term].backward()
    return [bool(down.weight.grad is not None and down.weight.grad.any()) for down in part.down]  # type: ignore


def test_each_mode_learns_from_its_own_loss_alone():
    """And the backbone learns from none of them."""
    windows, part = draw_tokens(12, 30), tiny_part("psyche", rule=2)
    assert isinstance(part, Psyche)
    lesson = lesson_of(windows % 5, torch.rand(12, 29) < 2)
    wanted = {"id": [True, False, False], "ego": [False, True, False], "superego": [False, False, True]}
    assert {term: learned_by(part, lesson, term) for term in wanted} == wanted
    assert learned_by(part, lesson, "rule") == wanted["superego"] and lesson.body_BTD.grad is None


def test_the_id_learns_from_every_word_and_the_others_from_what_is_said():
    part, windows = tiny_part("psyche"), draw_tokens(12, 30)
    learned_BT = torch.zeros(12, 29, dtype=torch.bool)
    learned_BT[:, :9] = True
    lesson, other_BT1 = lesson_of(windows, learned_BT), windows.clone()
    # The two change places, so that each window keeps its mode.
    other_BT1[:, [20, 21]] = windows[:, [21, 20]]
    before, after = (part.losses(one) for one in (lesson, lesson._replace(tokens_BT1=other_BT1)))
    assert {name for name in before if before[name] != after[name]} == {"id"}


def test_the_rule_makes_the_superego_avoid_repetition():
    """A few steps on text that never repeats a pair, but could: the superego alone likes it less than before."""
    torch.manual_seed(0)
    part, windows = tiny_part("psyche", rule=2, severity=5.0), draw_tokens(24, 30) % 12
    lesson = lesson_of(windows, torch.ones(24, 29, dtype=torch.bool))
    optimizer = torch.optim.SGD(part.parameters(), lr=0.5)

    def broken() -> float:
        return float(part.losses(lesson)["rule"].detach())

    assert (repeating_next(lesson.inputs_BT, lesson.documents_BT, 2) >= 0).any()
    before = broken()
    for _ in range(5):
        optimizer.zero_grad()
        part.losses(lesson)["rule"].backward()
        optimizer.step()
    assert broken() < before
