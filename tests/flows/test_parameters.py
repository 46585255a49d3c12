"""The form that Prefect shows for a flow, and the check that its server makes by it."""

import dataclasses

import pytest
from prefect.utilities.callables import parameter_schema

from flows.full_pipeline import full_pipeline
from flows.one_stage import one_stage
from flows.parameters import partial_schema
from nano_think.core.config import Config
from nano_think.core.errors import UsageError
from nano_think.experts import EXPERTS
from nano_think.stages.pipeline import PipelineConfig, load, plan, presets


def words_in(schema):
    """Every key of a schema that is not the name of a setting."""
    for key, value in schema.items():
        yield key
        below = value.values() if key == "properties" else [value]
        for one in below:
            if isinstance(one, dict):
                yield from words_in(one)


def test_every_setting_is_in_the_form():
    """By its name and place, with its words; nothing is required, refers elsewhere, or brings a default of its own."""
    shown = parameter_schema(full_pipeline).properties
    assert shown["preset"]["enum"] == list(presets()) and shown["preset"]["default"] == "micro"
    overrides = shown["overrides"]
    assert set(overrides["properties"]["experts"]["properties"]) == set(EXPERTS)
    assert overrides["properties"]["pretrain"]["properties"]["tokens"]["type"] == "integer"
    # The parameter itself has one: that nothing is laid over the preset.
    assert not {"$ref", "$defs", "required", "default"} & set(words_in(overrides["properties"]))


def test_stages_are_a_choice():
    assert parameter_schema(one_stage).properties["stage"]["enum"] == list(plan(load("nano")))


def test_settings_may_be_called_like_words_of_json_schema():
    """A field called default or required is a field."""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Odd(Config):
        default: int = 1
        required: bool = True

    assert set(partial_schema(Odd)["properties"]) == {"default", "required"}


def test_unknown_stage_is_named_with_the_nearest(tmp_path):
    """Before anything is done, as everywhere."""
    with pytest.raises(UsageError, match="Did you mean 'router'"):
        one_stage.fn(stage="ruoter", preset="nano", root=str(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_inherited_settings_have_their_words():
    """What the transformer has from every expert's configuration, and the expert's training from every training's."""
    settings = partial_schema(PipelineConfig)["properties"]
    assert settings["experts"]["properties"]["transformer"]["properties"]["n_layers"]["description"] == "Layers."
    assert settings["pretrain"]["properties"]["tokens"]["description"] == "Training budget (tokens)."
