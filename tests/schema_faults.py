"""The parts of JSON Schema (draft 2020-12) that our schemas use, applied to a value."""

from __future__ import annotations

import json
import re
from typing import Any

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
