"""A mixture in a folder: the same bits back, or a clear word about which file or tensor is at fault."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano_think.core.errors import ArtifactError
from nano_think.experts import EXPERTS
from nano_think.models.checkpoint import SHAPE, WEIGHTS, ModelShape, build_mixture, load_mixture, save_mixture
from nano_think.models.think import NanoThink, RouterConfig
from tests.perturbation import randomise_zeros
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_config, tiny_head


def make(names: tuple[str, ...] = tuple(EXPERTS)) -> tuple[NanoThink, ModelShape]:
    shape = ModelShape(
        width=WIDTH, vocabulary=VOCABULARY, window=24, start_token=START,
        router=RouterConfig(kind="mean", n_heads=2, latent=8, rotated=4),
        experts={name: tiny_config(name) for name in names},
    )  # fmt: skip
    return randomise_zeros(build_mixture(shape, tiny_head())).eval(), shape


@pytest.mark.parametrize(
    "names", [tuple(EXPERTS), tuple(EXPERTS)[::-1], tuple(EXPERTS)[:1]], ids=["all", "reversed", "one"]
)
def test_what_is_saved_comes_back_bit_for_bit(names: tuple[str, ...], tmp_path: Path):
    """Tensors, shape, outputs, and the order of the experts, which is that of the weights."""
    model, shape = make(names)
    save_mixture(tmp_path, model, shape)
    torch.manual_seed(99)
    loaded, loaded_shape = load_mixture(tmp_path)
    assert loaded_shape == shape and loaded.names == list(names) and not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokens_BT = draw_tokens(2, 20)
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(model(tokens_BT), loaded(tokens_BT), strict=True))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_shape(folder: Path, change) -> None:
    values = json.loads((folder / SHAPE).read_text())
    change(values)
    (folder / SHAPE).write_text(json.dumps(values))


DAMAGE = {
    "no configuration": (lambda f: (f / SHAPE).unlink(), "config.json: missing"),
    "torn configuration": (lambda f: (f / SHAPE).write_text('{"width": 1'), "config.json: not readable as JSON"),
    "configuration of something else": (lambda f: (f / SHAPE).write_text("[]"), "config.json: not the configuration"),
    "a key too few": (lambda f: edit_shape(f, lambda v: v.pop("width")), "config.json: not the configuration"),
    "a key too many": (lambda f: edit_shape(f, lambda v: v.update(new=1)), "config.json: not the configuration"),
    "unknown expert": (
        lambda f: edit_shape(f, lambda v: v["experts"].update(oracle={})), "config.json: .*unknown expert 'oracle'",
    ),
    "unknown setting": (
        lambda f: edit_shape(f, lambda v: v["router"].update(colour=1)), "config.json: .*unknown key 'colour'",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors: missing"),
    "torn weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-3]), "model.safetensors: damaged",
    ),
    "tensor gone": (
        lambda f: edit_weights(f, lambda t: t.pop("router.blend.bias")), "tensor router.blend.bias wanted .*, got None",
    ),
    "other shape": (
        lambda f: edit_weights(f, lambda t: t.update({"head.bias": torch.zeros(3)})), "tensor head.bias wanted .50,.",
    ),
    "tensor too many": (
        lambda f: edit_weights(f, lambda t: t.update(ghost=torch.zeros(1))), "tensor ghost wanted None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, tmp_path: Path):
    spoil, message = DAMAGE[damage]
    save_mixture(tmp_path, *make())
    spoil(tmp_path)
    with pytest.raises(ArtifactError, match=message) as error:
        load_mixture(tmp_path)
    assert error.value.exit_code == 4 and str(tmp_path) in str(error.value)
