"""Edits of configuration files that keep what a person wrote: comments, order, spelling; pure.

An edit is taken only if the new text, read by another parser, holds exactly the old values and the new ones: what a
TOML editor may get wrong with odd but valid files is refused instead of written.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One key by its path, and the value it shall have."""

    path: tuple[str, ...]
    value: Any


class UneditableError(ValueError):
    """The text cannot be read, or not be changed without changing more than asked for."""


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text. UneditableError with the reason."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UneditableError(f"it is not TOML: {error}") from error


def parse_json(text: str) -> dict[str, Any]:
    """The values of a JSON object; an empty file is an empty object. UneditableError with the reason."""
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise UneditableError(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UneditableError("it is not a JSON object")
    return found


def edit_toml(text: str, settings: Sequence[Setting]) -> str:
    """The text with these keys set. UneditableError where that cannot be done safely."""
    import tomlkit  # noqa: PLC0415 - only when a file is to be changed
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    wanted = with_settings(parse_toml(text), settings)
    try:
        document = tomlkit.parse(text)
        for setting in settings:
            _set(document, setting, tomlkit.table)
        edited = str(tomlkit.dumps(document))
    except (TOMLKitError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UneditableError(f"its form is too unusual to be edited safely ({error})") from error
    if _or_none(edited) != wanted:
        raise UneditableError("its form is too unusual to be edited safely")
    return edited


def _or_none(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _set(document: Any, setting: Setting, table: Any) -> None:
    place = document
    for part in setting.path[:-1]:
        if part not in place:
            place[part] = table(is_super_table=part != setting.path[-2])
        place = place[part]
    place[setting.path[-1]] = setting.value


def edit_json(text: str, settings: Sequence[Setting]) -> str:
    """As `edit_toml` for JSON: the order of keys and the indentation stay."""
    indent = re.search(r"\n([ \t]+)\S", text)
    edited = json.dumps(
        with_settings(parse_json(text), settings), indent=indent[1] if indent else 4, ensure_ascii=False
    )
    return edited + "\n"


def with_settings(values: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """The values with these keys set. UneditableError where a path leads through something that is no table."""
    result: dict[str, Any] = copy.deepcopy(dict(values))
    for setting in settings:
        place = result
        for part in setting.path[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UneditableError(f"{part} is not a table")
            place = inner
        if isinstance(place.get(setting.path[-1]), dict):
            raise UneditableError(f"{setting.path[-1]} is a table")
        place[setting.path[-1]] = setting.value
    return result


def value_at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path, None where there is none."""
    found: Any = values
    for part in path:
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; any other value of `second` wins."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def difference(before: str, after: str) -> str:
    """The changed lines on one line, for a plan: `-enable_cdi = false +enable_cdi = true`."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    changed = (line for line in lines if line[:1] in "+-" and line[1:].strip())
    return "; ".join(line[0] + line[1:].strip() for line in changed)
