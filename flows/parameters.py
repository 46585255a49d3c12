"""What a flow can be told, with the types and words that Prefect's form shows and by which its server checks it."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, get_type_hints

from pydantic import TypeAdapter, WithJsonSchema

from nano_think.stages.pipeline import PipelineConfig, load, plan, presets
from nano_think.stages.selection import Selection

# What depends on the preset has no default of its own in the form.
LEFT_OUT = {"default", "required", "$defs"}


def partial_schema(kind: type) -> dict[str, Any]:
    """The JSON schema of some of a configuration's settings: all are optional, none has a default, and none is a
    reference, which forms cannot follow.
    """
    schema = TypeAdapter(kind).json_schema()
    inlined = _inline(schema, schema.get("$defs", {}))
    _describe_inherited(kind, inlined["properties"])
    return inlined


def _describe_inherited(kind: type, properties: dict[str, Any]) -> None:
    """Give settings that a configuration has from its base the words that stand there, which pydantic leaves out."""
    for base in kind.__mro__[1:]:
        inherited = TypeAdapter(base).json_schema()["properties"] if is_dataclass(base) else {}
        for name, one in inherited.items():
            if "description" in one:
                properties[name].setdefault("description", one["description"])
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint) and name in properties:
            _describe_inherited(hint, properties[name]["properties"])


def _inline(value: Any, definitions: Mapping[str, Any], of_names: bool = False) -> Any:
    """of_names: whether the keys are names of settings, which may be called like a word of JSON schema."""
    if isinstance(value, list):
        return [_inline(one, definitions) for one in value]
    if not isinstance(value, Mapping):
        return value
    if "$ref" in value:
        value = definitions[value["$ref"].rpartition("/")[2]] | {k: v for k, v in value.items() if k != "$ref"}
    kept = {key: one for key, one in value.items() if of_names or key not in LEFT_OUT}
    return {key: _inline(one, definitions, key == "properties") for key, one in kept.items()}


STAGES = list(plan(load("nano")))
Preset = Annotated[str, WithJsonSchema({"type": "string", "enum": list(presets())})]
StageName = Annotated[str, WithJsonSchema({"type": "string", "enum": STAGES})]
Select = Annotated[dict[str, Any] | None, WithJsonSchema(partial_schema(Selection))]
Overrides = Annotated[dict[str, Any] | None, WithJsonSchema(partial_schema(PipelineConfig))]
