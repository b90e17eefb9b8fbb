"""The published files of nvidia-mig-parted: a table of what they say, written again in its format, and what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from nodeagent.simulation.board import Board, Engines, GpuInstanceProfile

TABLE = Path(__file__).parent / "data" / "mig-parted" / "published.txt"


@dataclass(frozen=True)
class Entry:
    """`devices` are indices, none for all; `ids` PCI ids as written, none for any; `counts` None is MIG off."""

    devices: tuple[int, ...]
    ids: tuple[str, ...]
    counts: Mapping[str, int] | None

    def covers(self, index: int, pci_device_id: int) -> bool:
        return (not self.devices or index in self.devices) and (
            not self.ids or f"0X{pci_device_id:08X}" in {one.upper() for one in self.ids}
        )

    @property
    def document(self) -> dict[str, object]:
        """As nvidia-mig-parted writes it: one id is a text, several are a list; MIG off has no instances."""
        found: dict[str, object] = {"device-filter": self.ids[0] if len(self.ids) == 1 else list(self.ids)}
        found = found if self.ids else {}
        found |= {"devices": list(self.devices) or "all", "mig-enabled": self.counts is not None}
        return found | ({"mig-devices": dict(self.counts)} if self.counts is not None else {})


@dataclass(frozen=True)
class Row:
    """A label with its entries, and the letters of the files that have it."""

    files: str
    label: str
    entries: tuple[Entry, ...]

    @property
    def has_indices(self) -> bool:
        return any(entry.devices for entry in self.entries)

    def wish(self, index: int, pci_device_id: int) -> Entry | None:
        """The entry that counts for this GPU: the last one that covers it."""
        return next((one for one in reversed(self.entries) if one.covers(index, pci_device_id)), None)


def rows() -> tuple[Row, ...]:
    lines = TABLE.read_text().splitlines()
    return tuple(_row(line) for line in lines if not line.startswith(("#", "file ")))


def letters() -> tuple[str, ...]:
    return tuple(line.split()[1] for line in TABLE.read_text().splitlines() if line.startswith("file "))


def file_text(letter: str) -> str:
    """The whole file of this letter, in the format of nvidia-mig-parted."""
    configs = {row.label: [entry.document for entry in row.entries] for row in rows() if letter in row.files}
    return yaml.safe_dump({"version": "v1", "mig-configs": configs}, sort_keys=False)


def _row(line: str) -> Row:
    files, label, entries = (part.strip() for part in line.split("|"))
    return Row(files, label, tuple(_entry(text) for text in entries.split(" ; ")))


def _entry(text: str) -> Entry:
    devices, ids, wish = (part.strip() for part in text.split(":"))
    indices = () if devices == "all" else tuple(int(one) for one in devices.split(","))
    counts = {name: int(count) for name, _, count in (word.partition("=") for word in wish.split() if "=" in word)}
    return Entry(
        indices, () if ids == "-" else tuple(f"0x{one}" for one in ids.split()), None if wish == "off" else counts
    )


def fits(board: Board, counts: Mapping[str, int]) -> bool:
    """Whether the board can hold these instances, by its table alone: places, slices, counts and media engines."""
    kinds = {one.name.removeprefix("MIG "): one for one in board.profiles}
    if set(counts) - set(kinds):
        return False
    wanted = [kinds[name] for name, count in counts.items() for _ in range(count)]
    whole = max(board.profiles, key=lambda one: one.shape.size)
    return (
        all(count <= kinds[name].shape.instances for name, count in counts.items())
        and sum(one.shape.slices for one in wanted) <= whole.shape.slices
        and all(_engines(wanted, one.name) <= getattr(whole.engines, one.name) for one in fields(Engines))
        and any(True for _ in _placed(wanted, frozenset()))
    )


def _engines(wanted: Sequence[GpuInstanceProfile], kind: str) -> int:
    return sum(getattr(one.engines, kind) for one in wanted)


def _placed(wanted: Sequence[GpuInstanceProfile], taken: frozenset[int]) -> Iterator[frozenset[int]]:
    if not wanted:
        yield taken
        return
    for start in wanted[0].shape.starts:
        span = frozenset(range(start, start + wanted[0].shape.size))
        if not span & taken:
            yield from _placed(wanted[1:], taken | span)
