"""Reading other programs' files: values by key with their places, every mistake collected, and what has no counterpart.

The reader is strict: a key that the format does not have is a mistake and not passed over, because a switch that is
misspelt would otherwise be lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodeagent.errors import SpecError, SpecProblem
from nodeagent.spec.document import Items, Mark, Node, Pairs, Text
from nodeagent.spec.names import pci_address
from nodeagent.spec.scalars import NULLS, did_you_mean, found

TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
HEX4 = re.compile(r"(?:0x)?([0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Imported:
    """A node file as plain values, and remarks on what has no counterpart in it, each with its place."""

    document: Mapping[str, Any]
    remarks: tuple[SpecProblem, ...] = ()


@dataclass
class Table:
    """One mapping of the file: `path` is its place, such as spec.template."""

    reader: ForeignReader
    path: str
    mark: Mark
    values: Mapping[str, tuple[Mark, Node]]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def is_null(self, name: str) -> bool:
        """Whether a key is there and has no value."""
        node = self._node(name)
        return isinstance(node, Text) and node.plain and (node.text in NULLS or not node.text)

    def table(self, name: str, known: Iterable[str]) -> Table:
        """An inner mapping, empty where it is not there; other keys than the known ones are mistakes."""
        if name not in self.values:
            return Table(self.reader, self._place(name), self.mark, {})
        return self.reader.table(self.values[name][1], self._place(name), known)

    def tables(self, name: str, known: Iterable[str]) -> list[Table]:
        """A list of mappings."""
        nodes = enumerate(self._items(name))
        return [self.reader.table(node, f"{self._place(name)}[{index}]", known) for index, node in nodes]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        read = enumerate(self._items(name))
        return [self.reader.text(node, f"{self._place(name)}[{index}]") for index, node in read]

    def text(self, name: str, choices: Iterable[str] = ()) -> str | None:
        """A text, None where it is not there."""
        node = self._node(name)
        if node is None:
            return None
        value = self.reader.text(node, self._place(name))
        if choices and value not in choices:
            self.wrong(name, f"expected {' or '.join(filter(None, choices))}, found {found(node)}")
            return None
        return value

    def number(self, name: str, least: int, most: int) -> int | None:
        """A whole number within limits, None where it is not there or wrong."""
        node = self._node(name)
        if node is None:
            return None
        text = self.reader.text(node, self._place(name))
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            self.wrong(name, f"expected a whole number from {least} to {most}, found {found(node)}")
            return None
        return int(text)

    def flag(self, name: str) -> bool | None:
        """True or false in any of their spellings, None where it is not there or wrong."""
        node = self._node(name)
        if node is None:
            return None
        text = self.reader.text(node, self._place(name)).lower()
        if text not in TRUE | FALSE:
            self.wrong(name, f"expected true or false, found {found(node)}")
            return None
        return text in TRUE

    def wrong(self, name: str, problem: str) -> None:
        self.reader.wrong(self._mark(name), self._place(name), problem)

    def remark(self, name: str, text: str) -> None:
        """Say that a key has no counterpart, if it is there."""
        if name in self.values:
            self.reader.remark(self._mark(name), self._place(name), text)

    def where(self, name: str) -> str:
        """FILE:LINE:COLUMN: KEY, as mistakes are told."""
        mark = self._mark(name)
        return f"{self.reader.file}:{mark.line}:{mark.column}: {self._place(name)}"

    def _node(self, name: str) -> Node | None:
        return self.values[name][1] if name in self.values else None

    def _items(self, name: str) -> tuple[Node, ...]:
        node = self._node(name)
        if node is None:
            return ()
        if not isinstance(node, Items):
            self.wrong(name, f"expected a list, found {found(node)}")
            return ()
        return node.items

    def _mark(self, name: str) -> Mark:
        return self.values[name][0] if name in self.values else self.mark

    def _place(self, name: str) -> str:
        return f"{self.path}.{name}".removeprefix(".")


@dataclass
class NodeFile:
    """A node file that grows: entries of a list are one for each `match`."""

    document: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    clashes: list[str] = field(default_factory=list)  # wishes that contradict each other, since last told
    _entries: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def entry(self, section: str, match: str, **values: Any) -> None:
        """Add values to the entry of `links`, `sriov`, `devlink` with this match."""
        self._merged((section, match), self.document.setdefault(section, []), match, values)

    def roce(self, match: str, **values: Any) -> None:
        """Add values to the entry of `roce.devices` with this match."""
        devices = self.document.setdefault("roce", {}).setdefault("devices", [])
        self._merged(("roce", match), devices, match, values)

    def rdma(self, *drivers: str) -> None:
        """The RDMA stack is loaded, with these NIC drivers besides those that are usual."""
        rdma = self.document.setdefault("modules", {}).setdefault("rdma", {})
        if drivers:
            rdma["drivers"] = list(dict.fromkeys([*rdma.get("drivers", ()), *drivers]))

    def _merged(self, key: tuple[str, str], entries: list[Any], match: str, values: Mapping[str, Any]) -> None:
        if key not in self._entries:
            self._entries[key] = {"match": match}
            entries.append(self._entries[key])
        entry = self._entries[key]
        for name, value in values.items():
            if value is None:
                continue
            if entry.setdefault(name, value) != value:
                self.clashes.append(f"{name} {entry[name]} of {match}, this one {value}")


@dataclass
class ForeignReader:
    """Collects the mistakes and remarks of one file."""

    file: str
    node_file: NodeFile = field(default_factory=NodeFile)
    problems: list[SpecProblem] = field(default_factory=list)
    remarks: list[SpecProblem] = field(default_factory=list)

    def table(self, node: Node | None, path: str, known: Iterable[str]) -> Table:
        """A mapping with none but the known keys."""
        mark = node.mark if node is not None else Mark(1, 1)
        if not isinstance(node, Pairs):
            self.wrong(mark, path, f"expected a mapping, found {found(node) if node is not None else 'nothing'}")
            return Table(self, path, mark, {})
        values: dict[str, tuple[Mark, Node]] = {}
        names = tuple(known)
        for name, value in node.pairs:
            place = f"{path}.{name.text}".removeprefix(".")
            if names and name.text not in names:
                advice = did_you_mean(name.text, names) or f"; expected one of {', '.join(names)}"
                self.wrong(name.mark, place, f"unknown key {name.text}{advice}")
            elif name.text in values:
                self.wrong(name.mark, place, f"key {name.text} is there twice")
            else:
                values[name.text] = (name.mark, value)
        return Table(self, path, mark, values)

    def text(self, node: Node, path: str) -> str:
        if isinstance(node, Text):
            return node.text
        self.wrong(node.mark, path, f"expected a text or number, found {found(node)}")
        return ""

    def wrong(self, mark: Mark, path: str, problem: str) -> None:
        self.problems.append(SpecProblem(self.file, mark.line, mark.column, path, problem))

    def remark(self, mark: Mark, path: str, text: str) -> None:
        self.remarks.append(SpecProblem(self.file, mark.line, mark.column, path, text))

    def clashed(self, mark: Mark) -> None:
        """Say where what stands at this mark contradicts what came before it."""
        for text in self.node_file.clashes:
            self.wrong(mark, "", f"another object of the file wants {text}; import them one by one, or make them agree")
        self.node_file.clashes.clear()

    def finished(self, document: Mapping[str, Any]) -> Imported:
        """The result. SpecError with every mistake there was."""
        if self.problems:
            raise SpecError(tuple(sorted(self.problems, key=lambda one: (one.line, one.column, one.problem))))
        order = sorted(self.remarks, key=lambda one: (one.line, one.column, one.path))
        return Imported(document, tuple(order))


def pci_addresses(table: Table, name: str) -> Iterator[str]:
    """The PCI addresses in a list, each as the kernel writes it; what is none is told."""
    for text in table.texts(name):
        address = pci_address(text)
        if address is None:
            table.wrong(name, f"expected a PCI address such as 0000:03:00.0, found {text}")
        else:
            yield address


def pci_id(table: Table, name: str, text: str) -> str:
    """`0x15b3` or `15B3` -> `15b3`, empty and a mistake for anything else."""
    match = HEX4.fullmatch(text)
    if match is None:
        table.wrong(name, f"expected four hexadecimal digits, found {text}")
    return match[1].lower() if match else ""


Importer = Callable[[ForeignReader, Node], Mapping[str, Any]]
