"""Who is scored: every way to mix is what it says it is."""

import dataclasses

import pytest
import torch

from nano_think.evaluation.calibration import Calibration
from nano_think.evaluation.reading import read, read_states
from nano_think.evaluation.scorers import (
    CALIBRATED,
    LEFT_OUT,
    ROUTER,
    SECOND,
    WITHOUT,
    Controls,
    columns,
    hiddens,
    nats,
    speakers,
    without,
)
from nano_think.experts import Expert
from nano_think.models.think import NanoThink
from tests.evaluation.test_reading import make_documents
from tests.perturbation import randomise_zeros
from tests.tiny import START, VOCABULARY, draw_tokens, tiny_expert, tiny_mixture, tiny_router

STATIC = (0.2, 0.5, 0.9)


def make_controls(model: NanoThink, **more) -> Controls:
    controls = Controls(dense=tiny_expert("transformer", seed=9), static=STATIC, **more)
    given = {name: Calibration(scale=1.1 + k / 10, bias=0.9) for k, name in enumerate(speakers(model, controls))}
    return dataclasses.replace(controls, calibrations=given)


@torch.no_grad()
def all_nats(model: NanoThink, controls: Controls | None) -> dict[str, torch.Tensor]:
    tokens_BT, targets_BT = draw_tokens(2, 9), torch.randint(VOCABULARY, (2, 9))
    routed = model(tokens_BT)
    return nats(model, routed, hiddens(model, routed, tokens_BT, controls), targets_BT, controls)


def test_columns_are_those_that_are_scored():
    """Also where there are no controls, no dense model, no diffuser among the members, or no calibrations."""
    model = tiny_mixture()
    whole = make_controls(model)
    for controls in (None, whole, dataclasses.replace(whole, dense=None), Controls(static=STATIC), Controls()):
        assert set(all_nats(model, controls)) == set(columns(model, controls))
    expected = [*model.names, "uniform", "static", WITHOUT, "mixture", "dense"]
    assert speakers(model, whole) == expected
    assert columns(model, whole)[len(expected) :] == [
        *(CALIBRATED + name for name in expected), "oracle", f"{CALIBRATED}oracle",
    ]  # fmt: skip


def test_without_the_diffuser_is_the_router_that_is_told_to_drop_it():
    model = tiny_mixture()
    tokens_BT, k = draw_tokens(2, 9), model.names.index(LEFT_OUT)
    dropped_BK = torch.zeros(2, len(model.names), dtype=torch.bool)
    dropped_BK[:, k] = True
    with torch.no_grad():
        found = hiddens(model, model(tokens_BT), tokens_BT, Controls())[WITHOUT]
        torch.testing.assert_close(found, model(tokens_BT, dropped_BK).hidden)


def test_static_is_the_same_sum_at_every_token():
    model, tokens_BT = tiny_mixture(), draw_tokens(2, 9)
    with torch.no_grad():
        routed = model(tokens_BT)
        found = hiddens(model, routed, tokens_BT, Controls(static=STATIC))["static"]
    plain = sum(weight * routed.streams[:, :, k] for k, weight in enumerate(STATIC))
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("prefix", ["", CALIBRATED])
def test_oracle_takes_the_best_expert_of_each_token(prefix: str):
    model = tiny_mixture()
    found = all_nats(model, make_controls(model))
    alone = torch.stack([found[prefix + name] for name in model.names])
    assert torch.equal(found[f"{prefix}oracle"], alone.amin(0))
    assert len(alone.argmin(0).unique()) > 1


def test_dense_reads_documents_each_on_its_own():
    """Its figures in a batch of windows are those of the document alone."""
    model = tiny_mixture()
    controls, documents = make_controls(model), make_documents((9, 30, 12))
    (together,) = read(model, documents, 16, controls)
    for index, document in enumerate(documents):
        (alone,) = read(model, [document], 16, controls)
        for name in ("dense", f"{CALIBRATED}dense", f"{CALIBRATED}mixture", "static"):
            torch.testing.assert_close(alone.nats[name], together.nats[name][together.of(index)], atol=1e-5, rtol=1e-5)


def test_states_to_fit_on_are_those_that_are_scored():
    model, documents = tiny_mixture(), make_documents()
    controls = make_controls(model)
    states, target_N = read_states(model, documents, 16, controls)
    (reading,) = read(model, documents, 16, controls)
    assert sorted(target_N.tolist()) == sorted(reading.target.tolist())
    for name, hidden_ND in states.items():
        nll_N = controls.calibrations[name].nll(model.head, hidden_ND[None], target_N[None])[0]
        torch.testing.assert_close(nll_N.sum(), reading.nats[CALIBRATED + name].sum(), rtol=1e-5, atol=1e-3)


def test_a_sum_of_distributions_is_scored_as_such_and_has_no_calibration():
    """The mixture's nats are those of `NanoThink.nll`; nothing that has no hidden state is fitted as if it had one."""
    model, document = tiny_mixture("expert probability"), max(make_documents(), key=lambda one: len(one.tokens))
    controls = Controls(static=STATIC)
    (reading,) = read(model, [document], 64, controls)
    ids = torch.from_numpy(document.tokens)[None]
    with torch.no_grad():
        routed = model(ids[:, :-1])
        torch.testing.assert_close(reading.nats["mixture"], model.nll(routed, ids[:, 1:])[0])
        less = routed._replace(weights=without(routed.weights, model.names.index(LEFT_OUT)))
        torch.testing.assert_close(reading.nats[WITHOUT], model.nll(less, ids[:, 1:])[0])
    states, _ = read_states(model, [document], 64, controls)
    assert not {"mixture", WITHOUT} & set(states) and set(model.names) < set(states)


def make_rivals(model: NanoThink) -> dict[str, NanoThink]:
    """A mixture of the model's own experts, and one with a second transformer in the diffuser's place."""
    experts: dict[str, Expert] = dict(model.experts.items())  # type: ignore[arg-type]
    second = {f"{name}_2" if name == LEFT_OUT else name: one for name, one in experts.items()}
    second[f"{LEFT_OUT}_2"] = tiny_expert("transformer", seed=5)
    return {
        name: NanoThink(model.head, parts, randomise_zeros(tiny_router(kind)), START).eval()
        for name, kind, parts in ((f"{ROUTER}mean", "mean", experts), (SECOND, "token", second))
    }


def test_other_mixtures_say_what_they_say_alone():
    """Each expert that is the model's own is computed once, and none of another name is taken for one."""
    model, tokens_BT = tiny_mixture(), draw_tokens(2, 9)
    controls = dataclasses.replace(make_controls(model), rivals=make_rivals(model))
    counted: list[str] = []
    for name, expert in model.experts.items():
        expert.register_forward_pre_hook(lambda *_, name=name: counted.append(name))
    with torch.no_grad():
        found = hiddens(model, model(tokens_BT), tokens_BT, controls)
        assert sorted(counted) == sorted(model.names)
        for name, rival in controls.rivals.items():
            torch.testing.assert_close(found[name], rival(tokens_BT).hidden)
    assert list(found).index(SECOND) < list(found).index("mixture")
    assert set(all_nats(model, controls)) == set(columns(model, controls))
