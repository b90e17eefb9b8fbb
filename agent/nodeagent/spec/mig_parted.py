"""Reads the configuration files of nvidia-mig-parted, version v1, as they are: every mistake with line and key.

Source: the format as nvidia-mig-parted v0.15 documents and checks it (api/spec/v1): unknown keys are errors, `devices`
is `all` or a list of indices, an entry that comes later overrides an earlier one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from nodeagent.errors import SpecError, SpecProblem, UsageError
from nodeagent.spec import names
from nodeagent.spec.document import Items, Mark, Node, Pairs, Text, compose
from nodeagent.spec.scalars import NULLS, did_you_mean, found
from nodeagent.spec.schema import MigEntry
from nodeagent.state.gpu import Gpu, MigMode

VERSION = "v1"
CONFIGS = "mig-configs"
_KEYS = ("device-filter", "devices", "mig-enabled", "mig-devices")
_FILTER = re.compile(r"0x[0-9a-fA-F]{8}(:0x[0-9a-fA-F]{8})?")
T = TypeVar("T")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")


@dataclass(frozen=True)
class PartedEntry:
    """One entry of a configuration; `devices` None means all, `filters` empty means every kind of GPU.

    `place` is where it stands: file, line, column and path; `wish_place` where it says what the GPUs are to be.
    """

    place: tuple[str, int, int, str]
    enabled: bool
    devices: tuple[int, ...] | None = None
    filters: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    wish_place: tuple[str, int, int, str] = ("", 0, 0, "")

    def matches(self, one: Gpu) -> bool:
        """Whether the device filter lets this GPU through: by PCI device id, and subsystem id where one is named."""
        packed = (f"{one.pci_device_id:08x}", f"{one.pci_subsystem_id:08x}")
        wanted = (tuple(part.removeprefix("0x") for part in text.lower().split(":")) for text in self.filters)
        return not self.filters or any(packed[: len(parts)] == parts for parts in wanted)


@dataclass(frozen=True)
class PartedFile:
    """A file with its configurations by label."""

    path: str
    configs: Mapping[str, tuple[PartedEntry, ...]]

    def config(self, label: str) -> tuple[PartedEntry, ...]:
        """The configuration of this label; UsageError naming those there are. The only one needs no label."""
        if not label and len(self.configs) == 1:
            return next(iter(self.configs.values()))
        if label in self.configs:
            return self.configs[label]
        near = difflib.get_close_matches(label, self.configs, n=1)
        meant = f"did you mean {near[0]}; " if near else ""
        problem = f"no configuration {label}" if label else "which configuration is not said"
        raise UsageError(f"select from {self.path}: {problem}; {meant}there are {', '.join(self.configs)}")


def is_parted(text: str, file: str) -> bool:
    """Whether the file has the form of nvidia-mig-parted and not of a node file."""
    root = compose(text, file)
    return isinstance(root, Pairs) and any(name.text == CONFIGS for name, _ in root.pairs)


def parse_parted(text: str, file: str) -> PartedFile:
    """The file in `text`; `file` is its name in messages. SpecError with every problem in it."""
    reader = _Reader(file)
    configs = reader.file(compose(text, file))
    if reader.problems:
        raise SpecError(tuple(sorted(reader.problems, key=lambda one: (one.line, one.column, one.problem))))
    return PartedFile(file, MappingProxyType(configs))


def entries_for(config: Sequence[PartedEntry], gpus: Iterable[Gpu]) -> tuple[MigEntry, ...]:
    """The configuration on these GPUs, one entry of the node file for each GPU that it covers.

    Indices count the GPUs in PCI order, as nvidia-mig-parted does. SpecError where an index names no GPU, or where MIG
    shall be on for one that cannot do it; off is what such a GPU is, and it gets no entry.
    """
    board = sorted(gpus, key=lambda one: one.pci_address)
    chosen: dict[str, MigEntry] = {}
    problems = [problem for entry in config for problem in _wrong_indices(entry, board)]
    if problems:
        raise SpecError(tuple(problems))
    for entry in config:
        for index, one in enumerate(board):
            if _covers(entry, index, one):
                chosen[one.uuid] = _node_entry(entry, one)
    return tuple(chosen.values())


def places_for(config: Sequence[PartedEntry], gpus: Iterable[Gpu]) -> Mapping[str, str]:
    """By UUID, where the file says what the GPU is to be: `FILE:LINE:COLUMN: KEY`."""
    board = enumerate(sorted(gpus, key=lambda one: one.pci_address))
    found = {one.uuid: entry.wish_place for index, one in board for entry in config if _covers(entry, index, one)}
    return {uuid: f"{file}:{line}:{column}: {path}" for uuid, (file, line, column, path) in found.items()}


def _covers(entry: PartedEntry, index: int, one: Gpu) -> bool:
    if one.mig_mode is MigMode.UNSUPPORTED:
        return False
    return entry.matches(one) and (entry.devices is None or index in entry.devices)


def _node_entry(entry: PartedEntry, one: Gpu) -> MigEntry:
    mode = MigMode.ENABLED if entry.enabled else MigMode.DISABLED
    return MigEntry(mode=mode, gpus=(one.uuid,), devices=entry.counts if entry.enabled else None)


def _wrong_indices(entry: PartedEntry, board: Sequence[Gpu]) -> Iterator[SpecProblem]:
    file, line, column, path = entry.place
    for index in entry.devices or ():
        problem = ""
        if index >= len(board):
            problem = f"there is no GPU {index}; expected 0 to {len(board) - 1}" if board else "there are no GPUs"
        elif entry.enabled and board[index].mig_mode is MigMode.UNSUPPORTED and entry.matches(board[index]):
            problem = (
                f"GPU {index} ({board[index].product}) cannot do MIG; expected mig-enabled: false, or devices: all"
            )
        if problem:
            yield SpecProblem(file, line, column, f"{path}.devices", problem)


class _Reader:
    """Collects every problem of one file."""

    def __init__(self, file: str) -> None:
        self.problems: list[SpecProblem] = []
        self._file = file

    def file(self, root: Node | None) -> dict[str, tuple[PartedEntry, ...]]:
        keys = self._mapping(root, "", ("version", CONFIGS)) if root is not None else {}
        version = keys.get("version")
        if version is None:
            self._wrong(Mark(1, 1), "version", f"key version is missing; expected version: {VERSION}")
        elif not isinstance(version, Text) or version.text != VERSION:
            self._wrong(version.mark, "version", f"version {found(version)} is not known; expected {VERSION}")
        configs = keys.get(CONFIGS)
        if configs is None:
            self._wrong(Mark(1, 1), CONFIGS, f"key {CONFIGS} is missing; expected labels with lists of entries")
            return {}
        labels = self._mapping(configs, CONFIGS, None)
        if not labels and isinstance(configs, Pairs):
            self._wrong(configs.mark, CONFIGS, "expected at least one label, found none")
        return {label: self._config(node, f"{CONFIGS}.{label}") for label, node in labels.items()}

    def _config(self, node: Node, path: str) -> tuple[PartedEntry, ...]:
        if not isinstance(node, Items) or not node.items:
            self._wrong(node.mark, path, f"expected a list with at least one entry, found {_seen(node)}")
            return ()
        read = [self._entry(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        return tuple(entry for entry in read if entry is not None)

    def _entry(self, node: Node, path: str) -> PartedEntry | None:
        keys = self._mapping(node, path, _KEYS)
        if not isinstance(node, Pairs):
            return None
        for name in ("devices", "mig-enabled"):
            if name not in keys:
                self._wrong(node.mark, f"{path}.{name}", f"key {name} is missing")
        enabled = self._read(keys, "mig-enabled", path, self._boolean) or False
        counts = self._read(keys, "mig-devices", path, self._counts)
        self._fitting(keys, counts, path, enabled=enabled)
        return PartedEntry(
            (self._file, node.mark.line, node.mark.column, path),
            enabled,
            self._read(keys, "devices", path, self._devices),
            self._read(keys, "device-filter", path, self._filters) or (),
            MappingProxyType(counts or {}),
            self._wish_place(keys, path),
        )

    def _wish_place(self, keys: Mapping[str, Node], path: str) -> tuple[str, int, int, str]:
        for name in ("mig-devices", "mig-enabled"):
            if name in keys:
                return (self._file, keys[name].mark.line, keys[name].mark.column, f"{path}.{name}")
        return (self._file, 1, 1, path)

    def _fitting(self, keys: Mapping[str, Node], counts: Mapping[str, int] | None, path: str, *, enabled: bool) -> None:
        """`mig-devices` goes with `mig-enabled: true`, and only with it."""
        place = f"{path}.mig-devices"
        if "mig-enabled" in keys and enabled and _is_nothing(keys.get("mig-devices")):
            self._wrong(keys["mig-enabled"].mark, place, "key mig-devices is missing; expected {} for none")
        if "mig-enabled" in keys and not enabled and counts:
            self._wrong(keys["mig-devices"].mark, place, "devices need mig-enabled: true; expected none, or true")

    def _read(self, keys: Mapping[str, Node], name: str, path: str, read: Callable[[Node, str], T]) -> T | None:
        return read(keys[name], f"{path}.{name}") if name in keys else None

    def _boolean(self, node: Node, path: str) -> bool:
        if isinstance(node, Text) and node.plain and node.text in _TRUE + _FALSE:
            return node.text in _TRUE
        self._wrong(node.mark, path, f"expected true or false, found {found(node)}")
        return False

    def _devices(self, node: Node, path: str) -> tuple[int, ...] | None:
        if isinstance(node, Text) and node.text == "all":
            return None
        if not isinstance(node, Items):
            self._wrong(node.mark, path, f"expected all or a list of indices, found {found(node)}")
            return ()
        return tuple(self._number(item, f"{path}[{index}]") for index, item in enumerate(node.items))

    def _number(self, node: Node, path: str) -> int:
        if isinstance(node, Text) and node.plain and re.fullmatch(r"[0-9]{1,4}", node.text):
            return int(node.text)
        self._wrong(node.mark, path, f"expected a whole number, 0 or more, found {found(node)}")
        return 0

    def _filters(self, node: Node, path: str) -> tuple[str, ...]:
        if _is_nothing(node) or (isinstance(node, Text) and not node.text):
            return ()  # no filter, as there
        items = node.items if isinstance(node, Items) else (node,)
        for item in items:
            if not isinstance(item, Text) or not _FILTER.fullmatch(item.text):
                problem = f"expected a PCI id such as 0x20B010DE or 0x20B010DE:0x144E10DE, found {found(item)}"
                self._wrong(item.mark, path, problem)
        return tuple(item.text for item in items if isinstance(item, Text))

    def _counts(self, node: Node, path: str) -> dict[str, int]:
        table = {} if _is_nothing(node) else self._mapping(node, path, None)
        for name in table:
            if not re.fullmatch(names.MIG_PROFILE, name):
                self._wrong(table[name].mark, f"{path}.{name}", f"expected a profile such as 1g.10gb, found {name}")
        counts = {name: self._number(item, f"{path}.{name}") for name, item in table.items()}
        if counts and not any(counts.values()):
            self._wrong(node.mark, path, "every count is 0; expected a count above 0, or {} for none")
        return counts

    def _mapping(self, node: Node | None, path: str, known: Sequence[str] | None) -> dict[str, Node]:
        """The values by key; with `known`, other keys are problems."""
        if not isinstance(node, Pairs):
            mark = node.mark if node is not None else Mark(1, 1)
            self._wrong(mark, path, f"expected a mapping, found {found(node) if node is not None else 'nothing'}")
            return {}
        keys: dict[str, Node] = {}
        for name, value in node.pairs:
            place = f"{path}.{name.text}".removeprefix(".")
            if known is not None and name.text not in known:
                advice = did_you_mean(name.text, known) or f"; expected one of {', '.join(known)}"
                self._wrong(name.mark, place, f"unknown key {name.text}{advice}")
            elif name.text in keys:
                self._wrong(name.mark, place, f"key {name.text} is there twice")
            else:
                keys[name.text] = value
        return keys

    def _wrong(self, mark: Mark, path: str, problem: str) -> None:
        self.problems.append(SpecProblem(self._file, mark.line, mark.column, path, problem))


def _is_nothing(node: Node | None) -> bool:
    """Whether the key is absent, or has a value that YAML calls null: both are the same to nvidia-mig-parted."""
    return node is None or (isinstance(node, Text) and node.plain and node.text in ("", *NULLS))


def _seen(node: Node) -> str:
    return "an empty list" if isinstance(node, Items) else found(node)
