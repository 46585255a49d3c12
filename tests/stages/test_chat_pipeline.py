"""The chat pipeline as data, its base built or taken, and what is found by name."""

from pathlib import Path

import pytest
import torch

from nano_think.core.config import flatten, to_dict
from nano_think.core.errors import ArtifactError, UsageError
from nano_think.data.ingest import IngestConfig
from nano_think.models.chat import ChatShape, build_chat
from nano_think.models.checkpoint import load_chat, load_model, save_model
from nano_think.stages.artifact import Artifact, find_model, seal, write_latest
from nano_think.stages.chat_pipeline import ChatConfig, chat_plan, chat_title, load_chat_config
from nano_think.stages.chats import Chats
from nano_think.stages.ingest import Ingest
from nano_think.stages.pipeline import load, plan, presets
from nano_think.stages.pretrain import Pretrain
from nano_think.stages.sft import Reused, Sft, expect_ends
from nano_think.stages.text_base import TextBase
from nano_think.training.objectives.chat import Marks
from tests.data.test_chat import documents_of
from tests.tiny import START, VOCABULARY, WIDTH, tiny_chat, tiny_config


def tiny_shape(**more) -> ChatShape:
    backbone = tiny_config("transformer")
    return ChatShape(width=WIDTH, vocabulary=VOCABULARY, window=64, start_token=START, backbone=backbone, **more)  # type: ignore


@pytest.fixture
def chat_model(tmp_path: Path) -> Artifact:
    """A finished chat model below a root of its own, and named there as the newest."""
    folder = tmp_path / "root" / "sft" / "0123"
    folder.mkdir(parents=True)
    save_model(folder, tiny_chat(), tiny_shape())
    found = seal(folder, "sft", "0123", {"summary": {}, "inputs": {}})
    write_latest(tmp_path / "root", {"sft": found}, "chat-latest.json")
    return found


@pytest.mark.parametrize("name", presets(chat=True))
def test_every_node_comes_after_what_it_needs(name: str, tmp_path: Path):
    nodes = chat_plan(load_chat_config(name), tmp_path)
    for place, node in enumerate(nodes.values()):
        assert set(node.needs) <= set(list(nodes)[:place])
    assert list(nodes)[-4:] == ["chat_tokens", "sft", "chat_evaluate", "chat_report"]


def test_the_two_pipelines_do_not_share_presets():
    assert (
        presets(chat=True).keys() == {"chat", "chat-component", "chat-nano"}
        and not presets().keys() & presets(chat=True).keys()
    )
    with pytest.raises(UsageError, match=r"unknown chat preset 'nano'\. Did you mean 'chat-nano'"):
        load_chat_config("nano")


def test_the_base_is_the_transformer_of_the_full_pipeline(tmp_path: Path):
    """With the same settings both have the same key, so that one run's base is the other's expert."""
    chat, full = load_chat_config("chat-nano"), load("nano")
    same = {name: getattr(full, name) for name in ("space", "compute", "ingest", "tokenizer", "embedding", "pretrain")}
    config = ChatConfig(backbone=full.experts.transformer, chats=chat.chats, seed=full.seed, **same)
    ours, theirs = chat_plan(config, tmp_path), plan(full)
    for name, other in (("ingest", "ingest"), ("embedding", "embedding"), ("base", "transformer")):
        mine, its = (to_dict(nodes[one].stage.config) for nodes, one in ((ours, name), (theirs, other)))
        different = {key for key, value in flatten(mine) if dict(flatten(its))[key] != value}
        # The experts share the cores; whoever asks for a number of threads gets it in both.
        assert different <= {"compute.threads"} and type(ours[name].stage) is type(theirs[other].stage)


def test_a_trained_model_is_taken_for_the_base(chat_model: Artifact):
    root = chat_model.path.parents[1]
    config = load_chat_config("chat-nano", {"base": "chat-latest", "space": {"width": 100, "window": 80}})
    nodes = chat_plan(config, root)
    assert set(nodes) == {"base", "chats", "chat_tokens", "sft", "chat_evaluate", "chat_report"}
    assert isinstance(nodes["base"].stage, Reused) and nodes["base"].stage.run(root, {}) == chat_model
    stage = nodes["sft"].stage
    assert isinstance(stage, Sft) and (stage.config.space.width, stage.config.space.window) == (WIDTH, 80)


def test_a_damaged_base_is_refused(chat_model: Artifact):
    (chat_model.path / "config.json").write_text("{}")
    stage = Reused.__new__(Reused)
    stage.config = type("Given", (), {"folder": str(chat_model.path)})()
    with pytest.raises(ArtifactError, match=r"config\.json"):
        stage.run(chat_model.path, {})


def test_models_are_found_by_name(chat_model: Artifact, tmp_path: Path):
    root = chat_model.path.parents[1]
    assert find_model("chat-latest", root) == (chat_model, None) == find_model(str(chat_model.path), root)
    with pytest.raises(UsageError, match=r"no finished chat model under .* train one with: nano-think sft"):
        find_model("chat-latest", tmp_path / "other")
    (root / "chat-latest.json").write_text("[]")
    with pytest.raises(ArtifactError, match="names no chat model"):
        find_model("chat-latest", root)


def test_a_saved_chat_model_is_the_same(chat_model: Artifact):
    tokens = torch.arange(20)[None]
    model, shape = load_model(chat_model.path)
    assert torch.equal(model(tokens).hidden, tiny_chat()(tokens).hidden) and shape == tiny_shape()


@pytest.mark.parametrize("values", ["[]", '{"width": 3}', '{"backbone": {"layers": 1}}'])
def test_another_configuration_is_refused(chat_model: Artifact, values: str):
    (chat_model.path / "config.json").write_text(values)
    with pytest.raises(ArtifactError, match="not the configuration of a chat model"):
        load_chat(chat_model.path)


@pytest.mark.parametrize(("stage", "source", "holds"), [(Chats, "kjv", "text"), (Ingest, "sums", "chat")])
def test_text_and_chats_are_not_mixed_up(stage: type[Ingest], source: str, holds: str):
    with pytest.raises(UsageError, match=f"source '{source}' holds {holds}"):
        stage(IngestConfig(sources=(source,))).key({})


def test_the_end_of_a_message_is_expected_as_often_as_it_comes():
    model, ids = build_chat(tiny_shape()), [[START, 1, 5, 2, 1, 6, 7, 2]]
    expect_ends(model, documents_of(ids, ["a"]), Marks(START, 1, 2))
    assert model.head.bias[2].exp() == pytest.approx(2 / 8) and model.head.bias.count_nonzero() == 1


def test_a_title_says_what_was_changed():
    config = load_chat_config("chat-nano", {"seed": 5})
    assert chat_title("chat-nano", config) == "chat-nano, changed: seed"


def test_too_long_a_context_is_refused():
    with pytest.raises(UsageError, match=r"space.window: wanted at most 16,384, got 16,385"):
        load_chat_config("chat", {"space": {"window": 16_385}})


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="shapes that do not fit"):
        load_chat_config("chat", {"backbone": {"n_heads": 3}})


def test_a_report_needs_nothing_beside_itself():
    from nano_think.report.chat import ChatReportData, markdown, render_chat

    part = {
        "models": {name: {"bits_per_byte": 2.0, "interval": (1.9, 2.1)} for name in ("base", "base_plain", "chat")},
        "changes": {name: {"change": -0.1, "interval": (-0.2, 0.05)} for name in ("base", "base_plain")},
        "chats": 3, "bytes": 40,
    }  # fmt: skip
    score = {"task": "sums", "kind": "answer", "score": 0.5, "low": 0.3, "high": 0.7, "chance": 0.1, "items": 20}
    results = {
        "language": part | {"domains": {"sums": part}},
        "tasks": {"sums": {"base": score | {"above_chance": True}, "chat": score | {"above_chance": True}}},
        "conversation": [{"role": "user", "content": "<b>hi</b>"}, {"role": "assistant", "content": "ho"}],
    }  # fmt: skip
    data = ChatReportData(
        preset="chat", created="2026-01-01T00:00:00+00:00", results=results, sources=[], trainings={},
        artifacts={"sft": {"key": "k", "digest": "d"}}, config={"seed": 1},
    )  # fmt: skip
    page = render_chat(data)
    assert "&lt;b&gt;hi&lt;/b&gt;" in page and "http" not in page.replace("http-equiv", "")
    assert "-10.0% (-20.0% to +5.0%)" in page and "50.0% (30.0% to 70.0%)" in page
    assert "| sums | answer | 50.0% (30.0% to 70.0%)" in markdown(data)
    assert 'id="concepts"' not in page
    cell = {"bits": "00000000", "column": 0, "row": 0, "pieces": 3, "domains": {"sums": 3}, "text": "<i>two</i>"}
    results["concepts"] = {"length": 16, "pieces": 3, "cells": [cell]}
    page = render_chat(data)
    assert 'id="concepts"' in page and "<svg" in page and "&lt;i&gt;two" in page and "<i>two" not in page


def test_parts_may_learn_from_the_text_already(tmp_path: Path):
    """Then the base is a whole chat model of the same text, which brings its table; without parts it is as ever."""
    wanted = {"since": "text", "on": ["psyche"]}
    nodes, plain = (
        chat_plan(load_chat_config("chat-nano", {"parts": parts}), tmp_path) for parts in (wanted, {"since": "text"})
    )
    assert isinstance(nodes["base"].stage, TextBase) and nodes["base"].needs == ("tokenizer", "tokens", "embedding")
    assert nodes["sft"].needs == ("chat_tokens", "tokenizer", "base")
    assert isinstance(plain["base"].stage, Pretrain) and plain["sft"].needs[-2:] == ("embedding", "base")


def test_a_base_that_is_given_has_learned_its_text():
    with pytest.raises(UsageError, match=r"parts\.since: a base that is given has learned its text"):
        load_chat_config("chat-nano", {"base": "chat-latest", "parts": {"since": "text"}})
