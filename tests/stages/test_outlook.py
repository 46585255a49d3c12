"""What a run would do: states, reasons by name, costs; and that telling so changes nothing."""

import json
from types import SimpleNamespace

import pytest
import torch

from nano_think.core.errors import ArtifactError
from nano_think.stages import outlook
from nano_think.stages.artifact import MANIFEST
from nano_think.stages.outlook import look, ready, refusal, seconds_of
from nano_think.stages.pipeline import Node, load, plan
from nano_think.stages.stage import Context
from tests.stages.graph import EDGES, make_graph, run_graph


@pytest.fixture
def graph(make_word, tmp_path):
    """A finished run of the toy graph."""
    return run_graph(make_graph(make_word), tmp_path)


def states(found):
    return {name: one.state for name, one in found.items() if one.state != "fresh"}


def reasons(one):
    return [(reason.kind, reason.name) for reason in one.why]


def test_nothing_made_is_missing(make_word, tmp_path):
    """In an empty root the first stage was never made, and the others come after it."""
    found = look(make_graph(make_word), tmp_path / "none")
    assert set(states(found).values()) == {"missing"}
    assert reasons(found["text"]) == [("new", "text")]
    assert reasons(found["mix"]) == [("waits", "left"), ("waits", "right")]
    assert not (tmp_path / "none").exists()


def test_finished_run_is_fresh(make_word, graph, tmp_path):
    """Nothing would be made, and it would take no time."""
    found = look(make_graph(make_word), tmp_path)
    assert not states(found)
    assert {name: one.artifact for name, one in found.items()} == graph
    assert seconds_of(make_graph(make_word), found) == (0.0, True)


def test_setting_is_named_with_both_values(make_word, graph, tmp_path):
    """A stage with another setting is stale, and so is what follows, and nothing else."""
    found = look(make_graph(make_word, left="links"), tmp_path)
    assert states(found) == {"left": "stale", "mix": "stale", "page": "stale"}
    (reason,) = found["left"].why
    assert (reason.kind, reason.name, reason.was, reason.now) == ("config", "word", "left", "links")
    assert str(reason) == "word left -> links"
    assert reasons(found["mix"]) == [("waits", "left")]


def test_module_is_named(make_word, graph, tmp_path):
    """Other code is told by the name of its module."""
    nodes = make_graph(make_word)
    nodes["right"].stage._modules = ["nano_think.core.rng", "nano_think.core.interrupts"]
    found = look(nodes, tmp_path)
    assert states(found) == {"right": "stale", "mix": "stale", "page": "stale"}
    assert ("module", "nano_think.core.interrupts") in reasons(found["right"])
    assert ("module", "nano_think.core.rng") not in reasons(found["right"])


def test_what_lies_outside_is_named(make_word, graph, tmp_path):
    """A fingerprint is compared leaf by leaf, members of a list by their names."""
    nodes = make_graph(make_word)
    nodes["text"].stage.outside = [{"name": "kjv", "origin": "1"}]
    run_graph(nodes, tmp_path)
    nodes["text"].stage.outside = [{"name": "kjv", "origin": "2"}]
    (reason,) = look(nodes, tmp_path)["text"].why
    assert (reason.kind, reason.name, reason.was, reason.now) == ("outside", "kjv.origin", "1", "2")


def test_other_input_is_named_with_both_digests(make_word, graph, tmp_path):
    """A stage that was made from another input says which."""
    nodes = make_graph(make_word, text="verse")
    nodes["text"].stage.run(tmp_path, {})
    found = look(nodes, tmp_path)
    (reason,) = found["words"].why
    assert (reason.kind, reason.name, reason.was) == ("input", "text", graph["text"].digest[:12])


def test_input_that_is_not_needed_any_more_is_named(make_word, graph, tmp_path):
    """And one that is still to be made is not."""
    nodes = make_graph(make_word)
    nodes["mix"] = Node(nodes["mix"].stage, ("left",))
    (reason,) = look(nodes, tmp_path)["mix"].why
    assert str(reason) == f"input right {graph['right'].digest[:12]} -> none"
    nodes["left"].stage.outside = "sea"
    assert ("input", "left") not in reasons(look(nodes, tmp_path)["mix"])


def test_plan_says_that_a_run_would_be_refused(make_word, graph, tmp_path):
    """What is needed is not up to date and was not asked for."""
    nodes = make_graph(make_word, left="links")
    assert "left: stale" in refusal(nodes, look(nodes, tmp_path, {"mix"}), tmp_path)
    assert refusal(nodes, look(nodes, tmp_path, {"left", "mix"}), tmp_path) is None
    assert refusal(nodes, look(nodes, tmp_path), tmp_path) is None


def test_begun_folder_is_half_made_and_tells_the_step(make_word, graph, tmp_path):
    """A folder without a manifest is gone on with, from its last checkpoint."""
    place = graph["mix"].path
    (place / MANIFEST).unlink()
    for step in (8, 12):
        (place / "work" / f"checkpoint-{step:08d}").mkdir(parents=True)
        (place / "work" / f"checkpoint-{step:08d}" / "state.json").write_text("{}")
    (place / "work" / "checkpoint-00000016").mkdir()
    found = look(make_graph(make_word), tmp_path)
    assert states(found) == {"mix": "half-made", "page": "stale"}
    assert str(found["mix"].why[0]) == "begun; goes on from step 12"


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "manifest"])
def test_damage_is_found_and_only_that_stage_made_again(make_word, graph, tmp_path, name, damage):
    """Whatever happens to a file, the plan names it, and the run makes that stage anew and no other."""
    file = graph[name].path / ("manifest.json" if damage == "manifest" else "word.txt")
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes({"flip": b"?" + file.read_bytes()[1:], "cut": b"w", "manifest": b"{"}[damage])
    nodes = make_graph(make_word)
    found = look(nodes, tmp_path)
    (reason,) = found[name].why
    assert found[name].state == "stale" and reason.kind == "damaged" and str(file) in reason.name
    context = Context()
    assert run_graph(nodes, tmp_path, context) == graph
    assert context.fresh == set(EDGES) - {name}
    assert not states(look(nodes, tmp_path))


def test_forced_stage_is_made_again_alone(make_word, graph, tmp_path):
    """--force makes one stage anew; what follows finds its input as it was."""
    nodes, context = make_graph(make_word), Context(force=frozenset({"left"}))
    found = look(nodes, tmp_path, force=("left",))
    assert states(found) == {"left": "stale"} and reasons(found["left"]) == [("forced", "left")]
    assert run_graph(nodes, tmp_path, context) == graph
    assert context.fresh == set(EDGES) - {"left"}


def test_what_follows_a_forced_training_on_a_gpu_waits_for_it(make_word, graph, tmp_path, monkeypatch):
    """Its bits are not the same each time."""
    monkeypatch.setattr(outlook, "pick_device", lambda name: torch.device(name))
    nodes = make_graph(make_word)
    compute = SimpleNamespace(compute=SimpleNamespace(device="cuda"))
    forced = SimpleNamespace(name="left", config=compute, again=nodes["left"].stage.again)
    assert "artifact" in outlook._forced(forced, tmp_path, graph["left"].path)
    compute.compute.device = "cpu"
    assert "artifact" not in outlook._forced(forced, tmp_path, graph["left"].path)


def test_nearest_artifact_explains(make_word, graph, tmp_path):
    """Of several, the one with the fewest differences is compared with."""
    nodes = make_graph(make_word)
    nodes["text"].stage.outside = {"sea": 1, "sky": 2}
    nodes["text"].stage.run(tmp_path, {})
    again = make_graph(make_word)
    again["text"].stage.outside = {"sea": 1, "sky": 3}
    assert reasons(look(again, tmp_path)["text"]) == [("outside", "sky")]


def test_manifest_of_before_is_no_trouble(make_word, graph, tmp_path):
    """One digest for all modules, as it was once kept, tells nothing of a single one."""
    file = graph["left"].path / MANIFEST
    manifest = json.loads(file.read_text()) | {"modules": "0" * 64, "config": {"word": "old"}}
    file.write_text(json.dumps(manifest))
    found = look(make_graph(make_word, left="links"), tmp_path)
    assert reasons(found["left"]) == [("config", "word")]


def test_time_is_that_of_the_longest_way(make_word, graph, tmp_path):
    """Stages that do not need each other run side by side."""
    for name, seconds in {"left": 5.0, "right": 8.0, "mix": 2.0, "page": 1.0}.items():
        file = graph[name].path / MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": seconds}))
    nodes = make_graph(make_word, left="links", right="rechts")
    assert seconds_of(nodes, look(nodes, tmp_path)) == (11.0, True)
    assert seconds_of(nodes, look(nodes, tmp_path, chosen={"left"})) == (5.0, True)


def test_time_grows_with_the_tokens():
    """A training of half the tokens is expected to take half as long."""
    cost = outlook._cost(load_stage(30_000), {"seconds": 8.0, "config": {"train": {"tokens": 60_000}}})
    assert cost["seconds"] == 4.0


def load_stage(tokens):
    return plan(load("nano", {"pretrain": {"tokens": tokens}}))["transformer"].stage


def test_what_is_needed_and_not_chosen_must_be_up_to_date(make_word, graph, tmp_path):
    """The error names the stage and why it cannot be used; what is needed is given when it can."""
    nodes = make_graph(make_word)
    assert ready(nodes, tmp_path, ("page",)) == {name: graph[name] for name in EDGES if name != "page"}
    assert ready(nodes, tmp_path, tuple(nodes)) == {}
    with pytest.raises(ArtifactError, match=r"left: stale \(word left -> links\)"):
        ready(make_graph(make_word, left="links"), tmp_path, ("mix",))
