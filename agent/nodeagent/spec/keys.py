"""What a key of the node file is: a dataclass field with its documentation and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Limits:
    """What a key accepts beyond its type; for lists and mappings the limits hold for each item or value.

    `expected` says in words what would be valid. `word` is the only text accepted where the key otherwise wants a list.
    `canonical` brings a text into the one form it is compared in. Fields with `key_` hold for the keys of a mapping;
    `key_note` is a hint for whoever wrote a key that was not canonical.
    """

    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    expected: str = ""
    choices: tuple[str, ...] = ()
    word: str = ""
    least_items: int = 0
    canonical: Callable[[str], str] = str
    key_pattern: str = ""
    key_expected: str = ""
    key_canonical: Callable[[str], str] = str
    key_note: str = ""


def key(doc: str, *, default: Any = ..., factory: Any = ..., example: str = "", **limits: Any) -> Any:
    """A documented key; `limits` are fields of Limits, `example` is a value as it would stand in the file."""
    metadata = {"doc": doc, "example": example, "limits": Limits(**limits)}
    if factory is not ...:
        return field(default_factory=factory, metadata=metadata)
    if default is not ...:
        return field(default=default, metadata=metadata)
    return field(metadata=metadata)


def absolute_path(doc: str, *, default: str = "", example: str = "", last_slash: bool = False) -> Any:
    """A key with an absolute path, empty for none; whether it may end in a slash."""
    pattern = r"^$|^/[^\x00]*$" if last_slash else r"^$|^/[^\x00]*[^/\x00]$"
    return key(doc, default=default, example=example, pattern=pattern, expected='an absolute path, or "" for none')


@dataclass(frozen=True)
class Key:
    """One key of a mapping as the schema describes it; `default` is MISSING where the key is required."""

    name: str
    hint: Any
    doc: str
    default: Any
    example: str
    limits: Limits

    @property
    def required(self) -> bool:
        return self.default is MISSING


@cache
def keys_of(record: type) -> tuple[Key, ...]:
    """The keys of one of the schema's dataclasses, in the order in which they are defined."""
    hints = get_type_hints(record)
    return tuple(
        Key(
            name=entry.name,
            hint=hints[entry.name],
            doc=entry.metadata["doc"],
            default=entry.default if entry.default_factory is MISSING else entry.default_factory(),
            example=entry.metadata["example"],
            limits=entry.metadata["limits"],
        )
        for entry in fields(record)
    )
