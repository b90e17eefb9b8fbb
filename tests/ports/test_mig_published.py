"""Every label of the published files of nvidia-mig-parted on every board: made and exported equal, or refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from nodeagent.host.nvml import InProcessNvml
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_export import parted_document
from nodeagent.simulation.boards import BOARDS
from nodeagent.simulation.machine import BoardAt, Machine, library_path
from nodeagent.spec.mig_parted import PartedEntry, PartedFile, entries_for, parse_parted, places_for
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.node import NodeState
from published import TABLE, Row, file_text, fits, letters, rows

ROWS = rows()
DISPLAY = 0x1FB010DE  # T1000, the display GPU of a DGX Station
# What docs/mig.md says: how many pairs of label and board are equal, refused, not meant.
TOLD = {
    "e": (51, 87, 0),
    "s": (9, 0, 128),
    "d": (172, 1178, 27),
    "c": (75, 308, 25),
    "h": (95, 714, 41),
    "o": (172, 1178, 27),
}


@dataclass(frozen=True)
class Applied:
    """The NVML port as the only port of a host, which is all that steps on MIG need."""

    nvml: InProcessNvml

    def gpus(self) -> tuple[Gpu, ...]:
        found, faults = self.nvml.gpus()
        assert faults == ()
        return found

    def make(self, config: Sequence[PartedEntry]) -> str:
        """Plan and carry out; "equal" when the plan is empty then, "refused" when nothing can be done, "not meant"."""
        there = self.gpus()
        entries = entries_for(config, there)
        if not entries:
            return "not meant"
        wish = plan(NodeSpec(version=1, mig=entries), NodeState(gpus={one.uuid: one for one in there}))
        if wish.obstacles:
            assert not wish.steps or len(there) > 1
            assert all(one.subject.name in places_for(config, there) for one in wish.obstacles)
            return "refused"
        for step in wish.steps:
            step.apply(self)
        return "equal" if not self.still_to_do(config) else "different"

    def still_to_do(self, config: Sequence[PartedEntry]) -> tuple[object, ...]:
        there = self.gpus()
        wish = plan(
            NodeSpec(version=1, mig=entries_for(config, there)), NodeState(gpus={one.uuid: one for one in there})
        )
        return (*wish.steps, *wish.obstacles)


@pytest.fixture
def files() -> dict[str, PartedFile]:
    return {letter: parse_parted(file_text(letter), letter) for letter in letters()}


def wished(row: Row, one: Gpu, position: int) -> tuple[bool, dict[str, int]] | None:
    """(MIG on, instances) that the table has for this GPU, worked out without the agent."""
    found = row.wish(position, one.pci_device_id)
    return None if found is None else (found.counts is not None, dict(found.counts or {}))


def shown(one: Gpu) -> tuple[bool, dict[str, int]]:
    return one.mig_mode is MigMode.ENABLED, dict(Counter(instance.profile for instance in one.instances))


def outcome(row: Row, board: str) -> str:
    """What must come of the label on a node with this board alone."""
    found = row.wish(0, BOARDS[board].pci_device_id)
    if found is None:
        return "not meant"
    return "equal" if fits(BOARDS[board], found.counts or {}) else "refused"


def check_export(applied: Applied, label: str) -> None:
    """The export is a file of the same format that wishes for exactly what is there."""
    exported = parse_parted(json.dumps(parted_document(applied.gpus(), label)), "exported").config(label)
    assert applied.still_to_do(exported) == (), label
    there = sorted(applied.gpus(), key=lambda one: one.pci_address)
    for entry in exported:
        for position in range(len(there)) if entry.devices is None else entry.devices:
            if there[position].mig_mode is not MigMode.UNSUPPORTED:
                assert shown(there[position]) == (entry.enabled, dict(entry.counts)), label


@pytest.mark.parametrize("board", BOARDS)
def test_every_label_on_every_board(tmp_path: Path, files: dict[str, PartedFile], board: str) -> None:
    """One label after the other on the same GPU, so that each starts from the layout before."""
    with Machine.create(str(tmp_path / "machine"), [BoardAt(board, "0000:3b:00.0", 0)], str(tmp_path), "595.45.04"):
        applied = Applied(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(tmp_path / "machine")}))
        for row in (row for row in ROWS if not row.has_indices):
            (before,) = applied.gpus()
            came = applied.make(files[row.files[0]].config(row.label))
            (after,) = applied.gpus()
            assert came == outcome(row, board), row.label
            assert shown(after) == (wished(row, after, 0) if came == "equal" else shown(before)), row.label
            if came == "equal":
                check_export(applied, row.label)
        applied.nvml.close()


def test_the_numbers_in_the_documentation_are_these() -> None:
    """Labels with indices count on the nodes that they are meant for: see the next test."""
    found = {letter: Counter(dict.fromkeys(("equal", "refused", "not meant"), 0)) for letter in letters()}
    for row in ROWS:
        for letter in row.files:
            if row.has_indices:
                found[letter]["equal"] += len(MEANT_FOR[row.label])
            else:
                found[letter].update(outcome(row, board) for board in BOARDS)
    assert {letter: tuple(counts.values()) for letter, counts in found.items()} == TOLD


MEANT_FOR = {
    "custom-config": (("A100-SXM4-40GB", 8), ("A100-PCIE-40GB", 8)),
    "balanced-k8s-dgx-station-80": (("A100-SXM4-80GB", 5),),
}


def test_labels_with_indices_are_known() -> None:
    assert {row.label for row in ROWS if row.has_indices} == set(MEANT_FOR)


@pytest.mark.parametrize(
    ("label", "board", "count"), [(label, *node) for label, nodes in MEANT_FOR.items() for node in nodes]
)
def test_labels_with_indices_on_the_nodes_they_are_meant_for(
    tmp_path: Path, files: dict[str, PartedFile], label: str, board: str, count: int
) -> None:
    """A DGX Station has a display GPU without MIG at index 3."""
    (row,) = (row for row in ROWS if row.label == label)
    slots = [BoardAt(board, f"0000:{number + 1:02x}:00.0", number) for number in range(count)]
    with Machine.create(str(tmp_path / "machine"), slots, str(tmp_path), "595.45.04") as machine:
        if count == 5:
            machine.set_counter(machine.gpus[3].uuid, "mig_capable", 0)
            machine.set_counter(machine.gpus[3].uuid, "pci_device_id", DISPLAY)
        applied = Applied(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(tmp_path / "machine")}))
        assert applied.make(files[row.files[0]].config(label)) == "equal"
        for position, one in enumerate(applied.gpus()):
            assert shown(one) == wished(row, one, position), position
        check_export(applied, label)
        applied.nvml.close()


def test_the_letters_have_their_repository_commit_and_path() -> None:
    told = [line.split() for line in TABLE.read_text().splitlines() if line.startswith("file ")]
    assert {len(words) for words in told} == {5}
    assert {len(words[3]) for words in told} == {40}
    assert all(a[1] != b[1] for a, b in pairwise(told))
