"""The node file's JSON Schema: the parts of draft 2020-12 that it uses, applied to right and wrong documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.spec.example import EXAMPLES, example_text
from nodeagent.spec.json_schema import json_schema
from nodeagent.spec.schema import NodeSpec, keys_of

BAD = Path(__file__).parents[1] / "data" / "bad-specs"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
KNOWN = frozenset(
    [
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "type",
        "properties",
        "required",
        "enum",
        "const",
        "additionalProperties",
        "propertyNames",
        "items",
        "minItems",
        "uniqueItems",
        "anyOf",
        "minimum",
        "maximum",
        "pattern",
    ]
)


def is_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (name in {"number", "integer"} and isinstance(value, bool))


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    """What is wrong with the value, by the keywords the schema uses; an unknown keyword is a fault of the test."""
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    found = []
    if "$ref" in schema:
        found += faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema and all(faults(value, arm, root) for arm in schema["anyOf"]):
        found.append("anyOf")
    types = schema.get("type", [])
    if types and not any(is_type(value, name) for name in ([types] if isinstance(types, str) else types)):
        return [*found, f"type of {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"enum {value!r}")
    if "const" in schema and value != schema["const"]:
        found.append(f"const {value!r}")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"pattern {value!r}")
    if is_type(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"range {value!r}")
    if isinstance(value, list):
        found += list_faults(value, schema, root)
    if isinstance(value, dict):
        found += object_faults(value, schema, root)
    return found


def list_faults(value: list[Any], schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    found = [fault for item in value for fault in faults(item, schema.get("items", {}), root)]
    if schema.get("uniqueItems") and len({json.dumps(item) for item in value}) < len(value):
        found.append("uniqueItems")
    return found + (["minItems"] if len(value) < schema.get("minItems", 0) else [])


def object_faults(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"required {name}" for name in schema.get("required", ()) if name not in value]
    for name, inner in value.items():
        found += faults(name, schema.get("propertyNames", {}), root)
        other = schema.get("additionalProperties", {})
        if name not in properties and other is False:
            found.append(f"additional {name}")
        else:
            found += faults(inner, properties.get(name, other), root)
    return found


def test_it_is_json():
    assert json.loads(json.dumps(json_schema())) == json_schema()
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit(name):
    schema = json_schema()
    assert faults(yaml.safe_load(example_text(name)), schema, schema) == []


WRONG = (
    "keys-unknown keys-misplaced keys-missing values-choice values-mapping values-boolean values-list mig-profiles "
    "top-no-version top-version-2"
)


@pytest.mark.parametrize("case", WRONG.split())
def test_wrong_files_do_not_fit(case):
    schema = json_schema()
    assert faults(yaml.safe_load((BAD / case / "node.yaml").read_text()), schema, schema)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({}, "required version"),
        ({"version": 1, "links": [{"match": "a", "mtu": 67}]}, "anyOf"),
        ({"version": 1, "mig": [{"mode": "enabled", "gpus": "some"}]}, "anyOf"),
        ({"version": 1, "mig": [{"mode": "enabled", "gpus": []}]}, "anyOf"),
        ({"version": 1, "services": ["a", "a"]}, "uniqueItems"),
        ({"version": 1, "metrics": {"listen": "nowhere"}}, "pattern 'nowhere'"),
        ({"version": 1, "loop": {"interval_seconds": 0}}, "range 0"),
    ],
)
def test_each_limit_is_in_the_schema(document, fault):
    schema = json_schema()
    assert faults(document, schema, schema) == [fault]


def test_every_key_is_documented():
    schema = json_schema()
    assert set(schema["properties"]) == {key.name for key in keys_of(NodeSpec)}
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["description"]
        assert all(entry["description"] for entry in definition["properties"].values())
