"""The node file's JSON Schema (draft 2020-12, https://json-schema.org/draft/2020-12), for editors and other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin

from nodeagent.spec.keys import Key, Limits, keys_of
from nodeagent.spec.render import plain
from nodeagent.spec.scalars import choices_of
from nodeagent.spec.schema import NodeSpec

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> Schema:
    """The schema as a JSON document. It knows keys, types and limits; what contradicts only the reader tells.

    Where the node file takes numbers and yes/no words as text, such as values of module parameters, so does the schema.
    """
    definitions: Schema = {}
    root = _record(NodeSpec, definitions)
    return {"$schema": DRAFT, "title": "nodeagent node file", **root, "$defs": dict(sorted(definitions.items()))}


def _record(record: type, definitions: Schema) -> Schema:
    keys = keys_of(record)
    document: Schema = {
        "description": _sentence(record),
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _property(key, definitions) for key in keys},
    }
    required = [key.name for key in keys if key.required]
    return {**document, "required": required} if required else document


def _property(key: Key, definitions: Schema) -> Schema:
    document = {"description": key.doc, **_typed(key.hint, key.limits, definitions)}
    if not key.required and key.default is not None:
        document["default"] = plain(key.default)
    return document


def _typed(hint: Any, limits: Limits, definitions: Schema) -> Schema:
    origin = get_origin(hint)
    if origin is tuple:
        return _list(get_args(hint)[0], limits, definitions)
    if origin is Mapping:
        return _table(get_args(hint)[1], limits, definitions)
    if get_args(hint):
        return {"anyOf": [_arm(arm, limits, definitions) for arm in get_args(hint)]}
    if isinstance(hint, type) and is_dataclass(hint):
        definitions.setdefault(hint.__name__, {})
        definitions[hint.__name__] = _record(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return _scalar(hint, limits)


def _arm(hint: Any, limits: Limits, definitions: Schema) -> Schema:
    if hint is type(None):
        return {"type": "null"}
    return {"const": limits.word} if hint is str and limits.word else _typed(hint, limits, definitions)


def _list(hint: Any, limits: Limits, definitions: Schema) -> Schema:
    document: Schema = {"type": "array", "items": _typed(hint, limits, definitions)}
    if limits.least_items:
        document["minItems"] = limits.least_items
    return {**document, "uniqueItems": True} if hint is str else document


def _table(hint: Any, limits: Limits, definitions: Schema) -> Schema:
    values = _typed(hint, limits, definitions)
    return {"type": "object", "propertyNames": {"pattern": limits.key_pattern}, "additionalProperties": values}


def _scalar(hint: Any, limits: Limits) -> Schema:
    if hint is bool:
        return {"type": "boolean"}
    if hint is str and limits.choices:
        return {"enum": list(limits.choices)}
    if hint is str:
        # a text may look like a number or a boolean to a YAML reader; a pattern in JSON Schema holds for strings alone
        return {"type": ["string", "number", "boolean"], **_pattern(limits)}
    if issubclass(hint, StrEnum):
        return {"enum": list(choices_of(hint, limits))}
    document: Schema = {"type": "integer" if hint is int else "number"}
    bounds = {"minimum": limits.minimum, "maximum": limits.maximum}
    return document | {name: bound for name, bound in bounds.items() if bound is not None}


def _pattern(limits: Limits) -> Schema:
    """Only where the text is taken as it is written: what is made canonical may be written in other ways."""
    return {"pattern": limits.pattern} if limits.pattern and limits.canonical is str else {}


def _sentence(record: type) -> str:
    return " ".join((record.__doc__ or "").split())
