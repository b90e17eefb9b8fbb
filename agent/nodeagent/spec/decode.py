"""From a YAML tree to the schema's dataclasses, driven by their type hints: no mistake stops it, all are collected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin

from nodeagent.spec.document import Items, Mark, Node, Pairs, Text
from nodeagent.spec.keys import Key, Limits, keys_of
from nodeagent.spec.scalars import NULLS, MismatchError, did_you_mean, found, nearest, read_scalar
from nodeagent.spec.schema import NodeSpec

Path = tuple[str | int, ...]

INCOMPLETE = "*"  # below the path of a mapping some of whose values could not be read


class Wrong(Enum):
    """Stands for a value that could not be read; its problem is already noted."""

    VALUE = "wrong"


def path_text(path: Path) -> str:
    """Such as `mig[0].devices.1g.5gb`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def key_paths(record: type, path: str = "") -> Iterator[str]:
    """Every key that can stand in the file, such as `modules.nvidia.uvm`."""
    for key in keys_of(record):
        yield path + key.name
        inner = record_in(key.hint)
        if inner:
            yield from key_paths(inner, f"{path}{key.name}{path_suffix(key.hint)}.")


def path_suffix(hint: Any) -> str:
    """What stands between the path of a key and those inside it: `[]` for a list, `.NAME` for a mapping by names."""
    return {tuple: "[]", Mapping: ".NAME"}.get(get_origin(hint), "")


def record_in(hint: Any) -> type | None:
    """The schema's dataclass inside a hint such as `tuple[MigEntry, ...]`, None if there is none."""
    if is_dataclass(hint) and isinstance(hint, type):
        return hint
    return next((inner for part in get_args(hint) if (inner := record_in(part))), None)


@dataclass(frozen=True)
class Note:
    """A problem, or a hint, at a place in the document."""

    mark: Mark
    path: Path
    text: str


@dataclass
class Decoder:
    """Reads one tree; `marks` tells where each value stands, `tainted` which values are not what the file says."""

    problems: list[Note] = field(default_factory=list)
    hints: list[Note] = field(default_factory=list)
    marks: dict[Path, Mark] = field(default_factory=dict)
    tainted: set[Path] = field(default_factory=set)

    def value(self, hint: Any, node: Node, path: Path, limits: Limits) -> Any:
        """What `node` stands for as `hint`; Wrong.VALUE if it cannot be read."""
        try:
            return self._typed(hint, node, path, limits)
        except MismatchError as mismatch:
            return self._wrong(node.mark, path, str(mismatch))

    def _wrong(self, mark: Mark, path: Path, problem: str) -> Wrong:
        self.problems.append(Note(mark, path, problem))
        self.tainted.add(path)
        return Wrong.VALUE

    def _typed(self, hint: Any, node: Node, path: Path, limits: Limits) -> Any:
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            return self._union(get_args(hint), node, path, limits)
        if origin is tuple:
            return self._items(get_args(hint)[0], node, path, limits)
        if origin is Mapping:
            return self._table(get_args(hint)[1], node, path, limits)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.record(hint, node, path)
        return read_scalar(hint, node, limits)

    def _union(self, arms: tuple[Any, ...], node: Node, path: Path, limits: Limits) -> Any:
        """`X | None`, or a single word instead of a list."""
        if limits.word and isinstance(node, Text):
            return _word(node, limits)
        if type(None) in arms and isinstance(node, Text) and node.plain and node.text in NULLS:
            return None
        arm = next(arm for arm in arms if arm is not type(None) and not (limits.word and arm is str))
        return self._typed(arm, node, path, limits)

    def _items(self, hint: Any, node: Node, path: Path, limits: Limits) -> Any:
        if not isinstance(node, Items):
            raise MismatchError(f"expected a list, found {found(node)}" + _as_list(node))
        if len(node.items) < limits.least_items:
            raise MismatchError("expected at least one item, found an empty list; remove the key for the default")
        values: list[Any] = []
        first: dict[str, int] = {}
        for index, item in enumerate(node.items):
            place = (*path, index)
            self.marks[place] = item.mark
            value = self.value(hint, item, place, limits)
            if isinstance(value, str) and first.setdefault(value, index) != index:
                self._wrong(item.mark, place, f"{value} is in the list twice; first at [{first[value]}]")
            values.append(blank(hint) if value is Wrong.VALUE else value)
        return tuple(values)

    def _table(self, hint: Any, node: Node, path: Path, limits: Limits) -> Any:
        if not isinstance(node, Pairs):
            raise MismatchError(f"expected a mapping, found {found(node)}{_remedy(node)}")
        table: dict[str, Any] = {}
        for name, item in self._pairs(node, path, limits):
            place = (*path, name)
            value = self.value(hint, item, place, limits)
            if value is not Wrong.VALUE:
                table[name] = value
        if len(table) < len(node.pairs):
            self.tainted.add((*path, INCOMPLETE))
        return MappingProxyType(table)

    def _pairs(self, node: Pairs, path: Path, limits: Limits) -> Iterator[tuple[str, Node]]:
        """The pairs under their canonical names; names that are wrong or come twice are noted and left out."""
        for written, item in node.pairs:
            name = limits.key_canonical(written.text)
            place = (*path, name)
            if limits.key_pattern and not re.fullmatch(limits.key_pattern, name):
                self._wrong(written.mark, place, f"expected {limits.key_expected}, found {found(written)}")
            elif place in self.marks:
                first = self.marks[place].line
                self._wrong(written.mark, place, f"key {written.text} is there twice; first in line {first}")
            else:
                self.marks[place] = item.mark if isinstance(item, Text) and item.text else written.mark
                if name != written.text and limits.key_note:
                    self.hints.append(Note(written.mark, (*path, written.text), limits.key_note))
                yield name, item

    def record(self, record: type, node: Node, path: Path) -> Any:
        """One of the schema's dataclasses, with defaults where the file is wrong; raises MismatchError."""
        if not isinstance(node, Pairs):
            known = ", ".join(key.name for key in keys_of(record))
            raise MismatchError(f"expected a mapping, found {found(node)}{_remedy(node) or f'; its keys are {known}'}")
        keys = {key.name: key for key in keys_of(record)}
        pairs = dict(self._pairs(node, path, Limits()))
        for name, mark in {written.text: written.mark for written, _ in node.pairs if written.text not in keys}.items():
            self._unknown(name, mark, record, path)
        return record(**{key.name: self._field(key, pairs.get(key.name), node.mark, path) for key in keys.values()})

    def _field(self, key: Key, node: Node | None, mark: Mark, path: Path) -> Any:
        place = (*path, key.name)
        value: Any = Wrong.VALUE
        if node is not None:
            value = self.value(key.hint, node, place, key.limits)
        elif key.required:
            self._wrong(mark, place, f"key {key.name} is missing; expected such as {key.name}: {key.example}")
        if value is not Wrong.VALUE:
            return value
        return blank(key.hint) if key.required else key.default

    def _unknown(self, name: str, mark: Mark, record: type, path: Path) -> None:
        """Note a key that the record lacks."""
        known = tuple(key.name for key in keys_of(record))
        near = nearest(name, known)
        if near and (*path, near) not in self.marks:
            self.tainted.add((*path, near))  # it was meant, so that it is missing proves nothing
        advice = did_you_mean(name, known) or _elsewhere(name) or f"; expected one of {', '.join(known)}"
        self._wrong(mark, (*path, name), f"unknown key {name}{advice}")


def blank(hint: Any) -> Any:
    """Stands in for a value that could not be read, so that the rest of the file can still be judged."""
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**{key.name: blank(key.hint) if key.required else key.default for key in keys_of(hint)})
    return next(iter(hint)) if issubclass(hint, Enum) else hint()


def _word(node: Text, limits: Limits) -> str:
    if node.text == limits.word:
        return node.text
    raise MismatchError(f"expected {limits.word} or a list, found {found(node)}" + _as_list(node))


def _as_list(node: Node) -> str:
    if not isinstance(node, Text):
        return ""
    return f"; write [{node.text}]" if not _is_nothing(node) else "; remove the key for the default"


def _remedy(node: Node) -> str:
    return "; write {} for all defaults, or remove the key" if isinstance(node, Text) and _is_nothing(node) else ""


def _is_nothing(node: Text) -> bool:
    return not node.text or (node.plain and node.text in NULLS)


def _elsewhere(name: str) -> str:
    places = [place for place in key_paths(NodeSpec) if place.rpartition(".")[2] == name]
    return f"; it belongs to {' or '.join(places)}" if places else ""
