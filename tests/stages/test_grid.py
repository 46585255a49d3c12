"""Grids of settings: every combination, checked before anything runs."""

import pytest

from nano_think.core.errors import UsageError
from nano_think.stages.grid import grid
from nano_think.stages.pipeline import load


def test_points_are_every_combination():
    """In the order in which they were named, with everything else as it was."""
    base = load("nano")
    points = grid(base, ["experts.transformer.n_layers=1,2", "pretrain.optim.table_rate=1e-3, 0.002"])
    configs = [point.config for point in points]
    found = [(config.experts.transformer.n_layers, config.pretrain.optim.table_rate) for config in configs]
    assert found == [(1, 0.001), (1, 0.002), (2, 0.001), (2, 0.002)]
    assert points[1].name == "experts.transformer.n_layers=1, pretrain.optim.table_rate=0.002"
    assert points[3].config.router == base.router


def test_values_are_those_of_yaml():
    """Lists, words, none and truth."""
    settings = [
        point.settings["members"] for point in grid(load("nano"), ["members=[transformer],[transformer, diffuser]"])
    ]
    assert settings == [["transformer"], ["transformer", "diffuser"]]
    points = grid(load("nano"), ["router.model.attention=mla,mha", "ingest.max_bytes_per_source=1000,null"])
    assert points[-1].config.ingest.max_bytes_per_source is None


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([], "--over: missing"),
        (["pretrain.tokens"], "wanted SETTING=VALUE"),
        (["pretrain.tokens="], "wanted SETTING=VALUE"),
        (["pretrain.tokens=[1"], "wanted SETTING=VALUE"),
        (["pretrain.tokns=1,2"], "unknown setting 'pretrain.tokns'. Did you mean 'pretrain.tokens'?"),
        (["pretrain=1"], "unknown setting 'pretrain'"),
        (["seed=1,1"], "a value is named twice"),
        (["seed=1", "seed=2"], "one setting is named twice"),
        (["seed=1,-1"], "point seed=-1: seed: wanted 0 to"),
        (["experts.transformer.n_heads=2,7"], "point experts.transformer.n_heads=7"),
        (["pretrain.tokens=many"], "point pretrain.tokens=many: pretrain.tokens: wanted a valid integer, got 'many'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(axes, words):
    """By the point's name and the setting's."""
    with pytest.raises(UsageError) as caught:
        grid(load("nano"), axes)
    assert words in str(caught.value) and "\n" not in str(caught.value)
