"""Every registered part: off it is not there, on it changes nothing before it has learned, and it comes back as saved.

That no part sees the future, and that its cache equals no cache, tests/test_causality.py and tests/test_cache.py try
with all other models.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nano_think.core.errors import ArtifactError, UsageError
from nano_think.models.chat import ChatShape, build_chat, switch_on
from nano_think.models.checkpoint import load_chat, save_model
from nano_think.nn.weights import load_weights, save_weights
from nano_think.parts import PARTS
from nano_think.stages.chat_pipeline import ChatConfig, chat_plan, load_chat_config
from tests.perturbation import randomise_zeros
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_chat, tiny_config, tiny_head, tiny_part


def tiny_shape(*parts: str) -> ChatShape:
    return ChatShape(
        width=WIDTH, vocabulary=VOCABULARY, window=24, start_token=START, backbone=tiny_config("transformer"),
        parts={name: PARTS[name].Config() for name in PARTS if name in parts},
    )  # type: ignore # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_part_changes_nothing_before_it_has_learned(name: str):
    """Bit for bit, though everything else of the model has learned."""
    model, tokens_BT = tiny_chat(), draw_tokens(2, 20, starts=(0, 9))
    with torch.no_grad():
        before = model(tokens_BT).hidden
        model.parts[name] = tiny_part(name).eval()
        assert torch.equal(model(tokens_BT).hidden, before)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_learns(name: str):
    """Each of its parameters has a gradient of its own losses or of the common one."""
    model, windows = tiny_chat(parts=[name]).train(), draw_tokens(6, 21, starts=(0,))
    routed, terms = model.learn(windows, windows[:, 1:] != START)
    common = model.head.nll(routed.hidden, windows[:, 1:]).mean()
    sum(terms.values(), common).backward()  # type: ignore[union-attr]
    without = [one for one, parameter in model.parts[name].named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize("name", PARTS)
def test_a_part_names_what_it_tells(name: str):
    part = tiny_part(name)
    assert tuple(part.judge(torch.zeros(2, WIDTH))) == part.tells


@pytest.mark.parametrize("name", PARTS)
def test_the_losses_of_a_part_are_told_by_its_name(name: str):
    windows = draw_tokens(6, 21)
    _, terms = tiny_chat(parts=[name]).learn(windows, windows[:, 1:] != START)
    assert all(one.startswith(f"{name}.") and torch.isfinite(value) for one, value in terms.items())


@pytest.mark.parametrize("names", [*([name] for name in PARTS), list(PARTS)], ids="-".join)
def test_parts_come_back_bit_for_bit(names: list[str], tmp_path: Path):
    shape = tiny_shape(*names)
    model = randomise_zeros(build_chat(shape, tiny_head())).eval()
    save_model(tmp_path, model, shape)  # type: ignore[arg-type]
    loaded, again = load_chat(tmp_path)
    assert again == shape and list(loaded.parts) == names
    tokens_BT = draw_tokens(2, 20)
    with torch.no_grad():
        for one, other in zip(model(tokens_BT), loaded(tokens_BT), strict=True):
            assert torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("name", PARTS)
def test_what_a_part_keeps_is_of_its_own_text_and_can_be_saved(name: str, tmp_path: Path):
    """A part that keeps nothing of a text that has left the window says so; the others keep a function of the text."""
    model, texts = tiny_chat(parts=[name]), [draw_tokens(1, 30, seed=seed)[0] for seed in (1, 2, 1)]
    kept = [model.fold(text_T, {}) for text_T in texts]
    if not model.remembers:
        assert kept == [{}, {}, {}]
        return
    save_weights(tmp_path / "kept", dict(kept[0][name]))
    restored, told = [*kept, {name: load_weights(tmp_path / "kept")}], []
    for state in restored:
        cache = model.start(1, 20)
        model.carry(cache, state)
        told.append(model.extend(draw_tokens(1, 20), cache).hidden)
    assert torch.equal(told[0], told[2]) and torch.equal(told[0], told[3]) and not torch.equal(told[0], told[1])


def test_a_model_from_before_there_were_parts_is_read():
    values = tiny_shape().to_dict()
    del values["parts"]
    assert ChatShape.from_dict(values, "here").parts == {}


def test_an_unknown_part_in_a_checkpoint_is_named(tmp_path: Path):
    shape = replace(tiny_shape(), parts={"soul": PARTS["psyche"].Config()})
    save_model(tmp_path, tiny_chat(), shape)
    with pytest.raises(ArtifactError, match=r"config\.json: .*unknown part 'soul'"):
        load_chat(tmp_path)


def test_what_a_model_has_it_keeps():
    """The base's own parts go on as they are, and the new ones come in the order in which parts act."""
    shape, wanted = tiny_shape("psyche"), {name: PARTS[name].Config() for name in PARTS}
    model = randomise_zeros(build_chat(shape, tiny_head()))
    kept = model.parts["psyche"]
    new = switch_on(model, shape, wanted)  # type: ignore[arg-type]
    assert model.parts["psyche"] is kept and list(model.parts) == list(new.parts) == list(PARTS)


def test_all_parts_are_off_unless_asked_for(tmp_path: Path):
    """And one that is off changes no key, whatever its settings."""
    assert ChatConfig().parts.on == ()
    plain, same, other = (
        load_chat_config("chat-nano", {"parts": parts})
        for parts in ({}, {"psyche": {"rank": 3}}, {"on": ["psyche"], "psyche": {"rank": 3}})
    )
    jobs = [chat_plan(config, tmp_path)["sft"].stage.config for config in (plain, same, other)]
    assert jobs[0] == jobs[1] != jobs[2] and jobs[2].parts["psyche"]["rank"] == 3  # type: ignore[attr-defined]


def test_an_unknown_part_is_refused():
    with pytest.raises(UsageError, match="unknown part 'soul'"):
        load_chat_config("chat-nano", {"parts": {"on": ["soul"]}})
