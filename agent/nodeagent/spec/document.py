"""YAML text as a tree in which every value knows its line: composed from the parser's events, and typed by nobody.

PyYAML's own composer is not used: it turns `00:02:10` into a number and `no` into false before anyone can say which was
meant, it drops duplicate keys, and its C version overflows the stack on deep nesting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from nodeagent.errors import SpecError, SpecProblem

DEEPEST = 32  # levels; the schema has seven
MOST_VALUES = 20_000  # after aliases are expanded, so that a few lines cannot stand for billions of values
RETRY_CHARACTERS = 64 * 1024  # the Python parser explains a syntax error better, but is slow

_LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = frozenset("tag:yaml.org,2002:" + name for name in ("map", "seq", "int", "float", "bool", "null"))
_ADVICE = {
    "mapping values are not allowed here": "expected the indentation of the lines above, and a blank after each colon",
    "cannot start any token": "expected quotes around a text that begins with it",
    "found unexpected end of stream": "expected a closing quote",
}
_TEXT_TAGS = frozenset({"tag:yaml.org,2002:str", "!"})


@dataclass(frozen=True, order=True, slots=True)
class Mark:
    """A place in a file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar as it is written; `plain` is False where quotes, a block or a tag say that it is text."""

    text: str
    plain: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping in the order of the file, duplicate keys included, merge keys resolved."""

    pairs: tuple[tuple[Text, Node], ...]
    mark: Mark


Node = Text | Items | Pairs


def compose(text: str, file: str) -> Node | None:
    """The document in `text`, None if it holds no value; SpecError with its place if it is not one YAML document."""
    _refuse_control_characters(text, file)
    try:
        return _Composer(yaml.parse(text, Loader=_LOADER), file).document()
    except yaml.MarkedYAMLError as error:
        raise SpecError((_syntax_problem(_explained(text, error), text, file),)) from error


def compose_all(text: str, file: str) -> tuple[Node, ...]:
    """Every document in `text` that holds a value, as `kubectl` takes them."""
    _refuse_control_characters(text, file)
    try:
        return tuple(_Composer(yaml.parse(text, Loader=_LOADER), file).documents())
    except yaml.MarkedYAMLError as error:
        raise SpecError((_syntax_problem(_explained(text, error), text, file),)) from error


def _refuse_control_characters(text: str, file: str) -> None:
    found = _CONTROL.search(text)
    if found:
        before = text[: found.start()]
        mark = Mark(before.count("\n") + 1, found.start() - before.rfind("\n"))
        code = f"U+{ord(found.group()):04X}"
        _refuse(file, mark, f"character {code} is not allowed in YAML; expected printable text in UTF-8")


def _explained(text: str, error: yaml.MarkedYAMLError) -> yaml.MarkedYAMLError:
    """The same error as the Python parser words it, where that costs little."""
    if len(text) > RETRY_CHARACTERS:
        return error
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as found:
        return found
    return error


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> SpecProblem:
    mark = error.problem_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    indentation = re.match(r"[ \t]*", lines[line] if line < len(lines) else "")
    if indentation and "\t" in indentation.group():
        problem = "tab in the indentation; expected spaces"
    else:
        context = f" {error.context}" if error.context else ""
        started = f" that begins in line {error.context_mark.line + 1}" if context and error.context_mark else ""
        advice = next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in str(error.problem)), "")
        problem = f"not valid YAML{context}{started}: {error.problem}{advice}"
    return SpecProblem(file, line + 1, column + 1, "", problem)


def _refuse(file: str, mark: Mark, problem: str) -> NoReturn:
    raise SpecError((SpecProblem(file, mark.line, mark.column, "", problem),))


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    return Mark(start.line + 1, start.column + 1) if start else Mark(1, 1)


@dataclass
class _Composer:
    events: Iterator[yaml.Event]
    file: str
    anchors: dict[str, tuple[Node, int]] = field(default_factory=dict)
    values: int = 0  # so far, those that aliases stand for included

    def document(self) -> Node | None:
        next(self.events)  # stream start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self.events), 1)
        next(self.events)  # document end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            _refuse(self.file, _mark(after), "a second document begins here; expected one document in the file")
        return root

    def documents(self) -> Iterator[Node]:
        next(self.events)  # stream start
        while not isinstance(next(self.events), yaml.StreamEndEvent):
            self.anchors.clear()
            root = self._node(next(self.events), 1)
            next(self.events)  # document end
            if not isinstance(root, Text) or root.text:
                yield root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if depth > DEEPEST:
            _refuse(self.file, _mark(event), f"nested too deeply; expected at most {DEEPEST} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        assert isinstance(event, yaml.NodeEvent)  # noqa: S101 - the parser's grammar
        before = self.values
        self._count(event, 1)
        node = self._new(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.values - before)
        return node

    def _count(self, event: yaml.Event, more: int) -> None:
        self.values += more
        if self.values > MOST_VALUES:
            _refuse(self.file, _mark(event), f"too many values; expected at most {MOST_VALUES}, aliases expanded")

    def _new(self, event: yaml.NodeEvent, depth: int) -> Node:
        tag = getattr(event, "tag", None)
        if tag and tag not in _TAGS and tag not in _TEXT_TAGS:
            _refuse(self.file, _mark(event), f"tag {_short(tag)} is not known; expected plain YAML without tags")
        if isinstance(event, yaml.ScalarEvent):
            return Text(event.value, not event.style and tag not in _TEXT_TAGS, _mark(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(event, depth)
        return self._pairs(event, depth)

    def _alias(self, event: yaml.AliasEvent) -> Node:
        if event.anchor not in self.anchors:
            _refuse(
                self.file,
                _mark(event),
                f"no anchor &{event.anchor} ends before this alias; quote a text that begins with *",
            )
        node, weight = self.anchors[event.anchor]
        self._count(event, weight)
        return node

    def _items(self, start: yaml.Event, depth: int) -> Items:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Items(tuple(items), _mark(start))

    def _pairs(self, start: yaml.Event, depth: int) -> Pairs:
        pairs: list[tuple[Text, Node]] = []
        merged: list[tuple[Text, Node]] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name = self._node(event, depth + 1)
            if not isinstance(name, Text):
                _refuse(self.file, name.mark, "a list or mapping stands as a key; expected the name of a key")
            value = self._node(next(self.events), depth + 1)
            if name.plain and name.text == "<<":
                merged.extend(self._merged(name, value))
            else:
                pairs.append((name, value))
        pairs.extend(_new_keys(pairs, merged))
        return Pairs(tuple(pairs), _mark(start))

    def _merged(self, name: Text, value: Node) -> Iterator[tuple[Text, Node]]:
        """The pairs a merge key `<<` brings in (yaml.org/type/merge.html)."""
        for source in value.items if isinstance(value, Items) else (value,):
            if not isinstance(source, Pairs):
                _refuse(self.file, name.mark, "merge key << wants mappings; expected an alias such as <<: *name")
            yield from source.pairs


def _new_keys(pairs: list[tuple[Text, Node]], merged: list[tuple[Text, Node]]) -> Iterator[tuple[Text, Node]]:
    """Merged pairs whose key is not there yet: what is written out wins, then what is merged first."""
    known = {name.text for name, _ in pairs}
    for name, value in merged:
        if name.text not in known:
            known.add(name.text)
            yield name, value
