"""The pipeline as data: presets, overrides, and which stage needs which."""

import pytest

from nano_think.core.config import to_dict
from nano_think.core.errors import UsageError
from nano_think.experts import EXPERTS
from nano_think.stages.pipeline import load, plan, presets, title


@pytest.mark.parametrize("name", presets())
def test_preset_loads_and_plans(name):
    """Every shipped preset is a whole configuration."""
    nodes = plan(load(name), name)
    assert next(iter(nodes)) == "ingest" and list(nodes)[-1] == "report"


def test_presets_are_the_three_of_the_design():
    """nano, micro and seed are shipped."""
    assert {"nano", "micro", "seed"} <= presets().keys()


@pytest.mark.parametrize("name", presets())
def test_configuration_survives_being_written_down(name):
    """to_dict and load are each other's reverse."""
    assert load("micro", to_dict(load(name))) == load(name)


def test_nodes_come_after_what_they_need():
    """The plan is in an order in which it can be walked."""
    seen = set()
    for name, node in plan(load("nano")).items():
        assert set(node.needs) <= seen, name
        seen.add(name)


def test_experts_need_nothing_of_each_other():
    """Each expert can start as soon as tokens and embedding are there, and the router takes them all."""
    nodes = plan(load("nano"))
    for name in EXPERTS:
        assert set(nodes[name].needs) == {"tokens", "embedding"}
    assert set(EXPERTS) <= set(nodes["router"].needs)
    assert set(nodes["report"].needs) == set(nodes) - {"report"}


def test_members_choose_the_experts():
    """A mixture of two has two experts in the plan."""
    nodes = plan(load("nano", {"members": ["transformer", "diffuser"]}))
    assert "state_space" not in nodes
    assert "state_space" not in nodes["router"].needs


def test_there_may_be_several_of_a_kind():
    """Each has draws of its own, and one shape; the first is what it is without the others."""
    config = load("nano", {"members": ["transformer", "transformer_2", "transformer_3"]})
    nodes = plan(config)
    assert nodes["router"].stage.config.members == config.members
    assert to_dict(nodes["transformer"].stage.config) == to_dict(plan(load("nano"))["transformer"].stage.config)
    numbers = [nodes[name].stage.config.number for name in config.members]
    assert numbers == [1, 2, 3] and {
        one.stage.config.expert for one in nodes.values() if hasattr(one.stage.config, "expert")
    } == {config.experts.transformer}
    with pytest.raises(UsageError, match="unknown expert 'transformer_1'"):
        load("nano", {"members": ["transformer_1"]})


def test_threads_are_settled_and_shared(monkeypatch):
    """Cores are shared among the trainings that run at once; a number that was asked for is taken."""
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    nodes = plan(load("nano"))
    assert [nodes[name].stage.config.compute.threads for name in ("embedding", "transformer", "router")] == [6, 1, 6]
    nodes = plan(load("nano", {"compute": {"threads": 1}}))
    assert {nodes[name].stage.config.compute.threads for name in ("embedding", "transformer", "router")} == {1}


def test_experts_read_in_one_order_or_each_in_its_own():
    """Which branch of the seed windows come from: in the second case one for each expert."""
    branches = {}
    for order in ("same", "own"):
        nodes = plan(load("nano", {"pretrain": {"order": order}}))
        branches[order] = {nodes[name].stage.config.branch_name for name in EXPERTS}
    assert (len(branches["same"]), len(branches["own"])) == (1, len(EXPERTS))


def test_experts_lean_to_domains_of_their_own_or_none():
    """Each is another of the readers; by default nobody leans."""
    nodes = plan(load("nano", {"pretrain": {"lean": 3}}))
    leans = [nodes[name].stage.config.lean for name in EXPERTS]
    assert [(lean.reader, lean.readers, lean.by) for lean in leans] == [
        (k, len(EXPERTS), 3) for k in range(len(EXPERTS))
    ]
    assert {plan(load("nano"))[name].stage.config.lean for name in EXPERTS} == {None}


def test_experts_keys_do_not_depend_on_each_others_settings():
    """Another width inside one expert trains that one again, and no other; the dense control grows from the
    transformer's shape.
    """
    plain = plan(load("nano"))
    other = plan(load("nano", {"experts": {"transformer": {"inner": 96}}}))
    changed = {name for name in plain if to_dict(plain[name].stage.config) != to_dict(other[name].stage.config)}
    assert changed == {"transformer", "dense", "report"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sed": 3}, "unknown key 'sed'. Did you mean 'seed'?"),
        ({"space": {"widht": 3}}, "unknown key 'space.widht'. Did you mean 'width'?"),
        ({"experts": {"transformer": {"n_layer": 3}}}, "unknown key 'experts.transformer.n_layer'. Did you mean"),
        ({"experts": {"transfomer": {}}}, "unknown key 'experts.transfomer'. Did you mean 'transformer'?"),
        ({"members": ["transfomer"]}, "unknown expert 'transfomer'. Did you mean 'transformer'?"),
        ({"members": []}, "members: wanted one or more"),
        ({"members": ["diffuser", "diffuser"]}, "members: wanted one or more different"),
        ({"seed": "many"}, "seed: wanted a valid integer, got 'many'"),
        ({"space": 3}, "space: wanted"),
        ({"pretrain": {"tokens": 0}}, "tokens: wanted at least 1, got 0"),
        ({"controls": "some"}, "controls: wanted 'none', 'dense' or 'all', got 'some'"),
        ({"calibration": {"fit_tokens": 0}}, "fit_tokens: wanted at least 1, got 0"),
        (
            {"space": {"width": 384}, "members": ["state_space"], "experts": {"state_space": {"n_layers": 1}}},
            "no transformer of width 384 has within 2% of the mixture's",
        ),
        ({"compute": {"device": "cudda"}}, "compute.device: wanted 'auto', 'cpu'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_are_named(overrides, words):
    """One line: the dotted place, what was wanted, what was got, the nearest name."""
    with pytest.raises(UsageError) as caught:
        load("nano", overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once():
    """Nobody has to run again to learn of the second mistake."""
    with pytest.raises(UsageError) as caught:
        load("nano", {"sed": 3, "space": {"widht": 3}})
    assert "'sed'" in str(caught.value) and "'space.widht'" in str(caught.value)


def test_unknown_preset_has_a_hint():
    """The nearest preset is named."""
    with pytest.raises(UsageError, match="Did you mean 'nano'"):
        load("nono")


def test_title_names_what_was_changed():
    """A preset with other settings is not called by its bare name."""
    assert title("nano", load("nano")) == "nano"
    assert title("nano", load("nano", {"pretrain": {"tokens": 9000}})) == "nano, changed: pretrain.tokens"


def test_the_report_is_called_as_its_run_is():
    """And neither as an expert nor as a control."""
    for controls in ("none", "dense", "all"):
        nodes = plan(load("nano", {"controls": controls}), "nano, changed")
        assert nodes["report"].stage.config.name == "nano, changed"
