"""One step: a batch in parts, or with layers computed twice, gives the gradient of the whole batch computed once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from nano_think.data.loader import Windows
from nano_think.experts import EXPERTS
from nano_think.training.layers import layers_of
from nano_think.training.loop import TrainConfig, _Run
from nano_think.training.objectives import Objective
from tests.perturbation import randomise_zeros
from tests.tiny_training import CONFIG, OBJECTIVES, SEED, make_calm, make_objective, make_windows

Differentiate = Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]]


@pytest.fixture
def differentiate(accelerator: Accelerator, tmp_path: Path) -> Differentiate:
    """differentiate(objective, step, **settings) -> the terms of the loss and the gradients by name."""

    def run(objective: Objective, step: int = 3, seed: int = SEED, **more):
        config: TrainConfig = replace(CONFIG, **more)
        randomise_zeros(objective)
        under_way = _Run(objective, make_windows(), config, accelerator, tmp_path, lambda event: None, seed)
        terms = under_way._differentiate(step)
        return terms, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}

    return run


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Within a millionth of the largest entry of each tensor."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6 * max(value.abs().max().item(), 1e-2))


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_in_parts_is_the_batch(name: str, parts: int, differentiate: Differentiate):
    """The windows hold different numbers of predicted tokens, and yet every token counts the same."""
    counts = make_calm(name).count_predicted
    windows = torch.from_numpy(make_windows().batch(3))
    assert len({int(counts(row[None])) for row in windows}) > 1
    whole, grads = differentiate(make_calm(name))
    terms, ours = differentiate(make_calm(name), accumulate=parts)
    assert grads and any(value.abs().max() > 0 for value in grads.values())
    assert_close(whole, terms)
    assert_close(grads, ours)


def test_a_part_without_a_target_weighs_nothing(differentiate: Differentiate, monkeypatch: pytest.MonkeyPatch):
    """No token of a part is predicted, or none of the whole batch: nothing is divided by 0."""
    objective = make_calm("transformer")
    monkeypatch.setattr(objective, "count_predicted", lambda tokens: torch.tensor(0))
    terms, grads = differentiate(objective, accumulate=2)
    assert terms["next_token"] == 0 and all(not grad.any() for grad in grads.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_checkpointed_layers_give_the_plain_gradients(name: str, differentiate: Differentiate):
    """Bit for bit, with dropout on: the second forward pass draws what the first one drew."""
    objective = make_objective(name)
    assert len(layers_of(objective)) == {"embedding": 1, "router": 0, "chat mixture": len(EXPERTS)}.get(name, 2)
    terms, grads = differentiate(objective)
    again, ours = differentiate(make_objective(name), checkpoint_layers=True)
    assert all(torch.equal(value, again[key]) for key, value in terms.items())
    assert grads.keys() == ours.keys() and all(torch.equal(value, ours[key]) for key, value in grads.items())


@pytest.mark.parametrize("name", ["transformer", "diffuser", "state_space", "chat"])
def test_checkpointed_layers_keep_less(name: str, differentiate: Differentiate):
    """Bytes that autograd holds between the passes."""
    kept = []
    for checkpointed in (False, True):
        held: dict[int, int] = {}

        def note(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            differentiate(make_objective(name), checkpoint_layers=checkpointed)
        kept.append(sum(held.values()))
    assert kept[1] < 0.7 * kept[0]


def test_draws_are_a_function_of_seed_step_and_part(differentiate: Differentiate, monkeypatch: pytest.MonkeyPatch):
    """Whatever was drawn before; another seed, step or number of parts draws something else over the same windows."""
    name, windows = "transformer", make_windows().batch(0)
    monkeypatch.setattr(Windows, "batch", lambda self, step, rank, world: windows)
    first, _ = differentiate(make_objective(name))
    torch.rand(7)
    again, _ = differentiate(make_objective(name))
    assert first["next_token"] == again["next_token"]
    other = [differentiate(make_objective(name), **more)[0] for more in ({"seed": 1}, {"step": 4}, {"accumulate": 2})]
    assert len({first["next_token"].item(), *(terms["next_token"].item() for terms in other)}) == 4


def test_parts_draw_apart(differentiate: Differentiate, monkeypatch: pytest.MonkeyPatch):
    """Two parts with the same windows have different dropout."""
    seen = []
    objective = make_objective("transformer")
    plain = type(objective).forward

    def spy(self: Objective, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        seen.append(plain(self, torch.zeros_like(tokens_BT1), share))
        return seen[-1]

    monkeypatch.setattr(type(objective), "forward", spy)
    differentiate(objective, accumulate=4)
    assert len({terms["next_token"].item() for terms in seen}) == 4
