"""Every board there is a table for: layouts by name and random ones, planned and carried out through NVML."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nodeagent.host.nvml import InProcessNvml
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_conflict import layouts
from nodeagent.resources.mig_export import parted_document
from nodeagent.resources.mig_names import layout_counts, layout_names
from nodeagent.resources.mig_placement import Board
from nodeagent.simulation.boards import BOARDS
from nodeagent.simulation.machine import BoardAt, Machine, library_path
from nodeagent.spec.mig_parted import entries_for, parse_parted
from nodeagent.spec.schema import MigEntry, NodeSpec
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.node import NodeState


class Applied:
    """The NVML port as the only port of a host, which is all that steps on MIG need."""

    def __init__(self, nvml: InProcessNvml) -> None:
        self.nvml = nvml

    def gpu(self) -> Gpu:
        ((found,), faults) = self.nvml.gpus()
        assert faults == ()
        return found

    def make(self, entry: MigEntry) -> Gpu:
        """Plan for what is there and carry it out; then the plan is empty."""
        before = self.gpu()
        wish = plan(NodeSpec(version=1, mig=(entry,)), NodeState(gpus={before.uuid: before}))
        assert not wish.obstacles, wish.obstacles
        for step in wish.steps:
            step.apply(self)
        after = self.gpu()
        state = NodeState(gpus={after.uuid: after})
        assert plan(NodeSpec(version=1, mig=(entry,)), state).steps == ()
        assert all(step.satisfied(state) for step in wish.steps if not str(step).startswith("destroy"))
        return after


@contextmanager
def a_board(tmp_path, name: str) -> Iterator[Applied]:
    before = dict(os.environ)
    (tmp_path / "devices").mkdir()
    at = BoardAt(board=name, pci_address="0000:3b:00.0", minor=0)
    path = str(tmp_path / "machine")
    with Machine.create(path, [at], str(tmp_path / "devices"), "595.45.04"):
        nvml = InProcessNvml(library_path(), {"NVMLSIM_MACHINE": path})
        try:
            yield Applied(nvml)
        finally:
            nvml.close()
            os.environ.clear()
            os.environ.update(before)


@pytest.mark.parametrize("name", BOARDS)
def test_every_layout_by_name_and_random_ones(tmp_path, name):
    chance = random.Random(name)
    with a_board(tmp_path, name) as applied:
        profiles = applied.gpu().profiles
        names = layout_names(profiles)
        assert {"all-disabled", "all-enabled"} < set(names)
        for layout in names:
            after = applied.make(MigEntry(layout=layout))
            assert after.mig_mode is (MigMode.DISABLED if layout == "all-disabled" else MigMode.ENABLED)
            assert not any(one.pids or not one.compute_instances for one in after.instances)
        possible = list(layouts(Board.of(profiles), (), ()))
        for counts in chance.sample(possible, min(12, len(possible))):
            after = applied.make(MigEntry(MigMode.ENABLED, devices=dict(counts)))
            assert len(after.instances) == sum(count for _, count in counts)


@pytest.mark.parametrize("name", BOARDS)
def test_a_file_of_mig_parted_for_this_board_comes_back_equal(tmp_path, name):
    """Each layout by name as such a file with the PCI id of the board as its filter, carried out and exported."""
    with a_board(tmp_path, name) as applied:
        there = applied.gpu()
        for layout in layout_names(there.profiles):
            enabled, counts = layout != "all-disabled", layout_counts(layout, there.profiles)
            entry = {"device-filter": f"0x{there.pci_device_id:08X}", "devices": "all", "mig-enabled": enabled}
            given = {"version": "v1", "mig-configs": {layout: [entry | {"mig-devices": counts}]}}
            (wanted,) = entries_for(parse_parted(json.dumps(given), "given").config(layout), [there])
            exported = json.dumps(parted_document([applied.make(wanted)], layout))
            (found,) = parse_parted(exported, "exported").config(layout)
            assert (found.enabled, found.devices, dict(found.counts)) == (enabled, None, counts)


@pytest.mark.parametrize("name", BOARDS)
def test_parts_of_every_profile(tmp_path, name):
    with a_board(tmp_path, name) as applied:
        applied.make(MigEntry(MigMode.ENABLED, devices={}))
        for profile in applied.gpu().profiles:
            count = profile.slice_count
            after = applied.make(MigEntry(MigMode.ENABLED, devices={f"1c.{profile.name}": count}))
            (found,) = after.instances
            assert (found.profile, len(found.compute_instances)) == (profile.name, count)


def test_one_set_of_media_engines_is_not_given_out_twice(tmp_path):
    """A30 has one JPEG engine and one OFA: of 1g.6gb+me and 2g.12gb+me only one can be there."""
    with a_board(tmp_path, "A30") as applied:
        before = applied.make(MigEntry(MigMode.ENABLED, devices={"2g+me": 1, "1g": 2}))
        entry = MigEntry(MigMode.ENABLED, devices={"2g+me": 1, "1g+me": 1})
        (found,) = plan(NodeSpec(version=1, mig=(entry,)), NodeState(gpus={before.uuid: before})).obstacles
        assert "do not fit: they need 2 jpegs, the board has 1" in found.problem


def test_all_media_engines_leave_room_only_for_those_without(tmp_path):
    with a_board(tmp_path, "RTX-PRO-6000") as applied:
        after = applied.make(MigEntry(MigMode.ENABLED, devices={"1g+me.all": 1, "1g-me": 2}))
        assert sorted(one.profile for one in after.instances) == ["1g.24gb+me.all", "1g.24gb-me", "1g.24gb-me"]
        entry = MigEntry(MigMode.ENABLED, devices={"1g+me.all": 1, "1g": 1})
        (found,) = plan(NodeSpec(version=1, mig=(entry,)), NodeState(gpus={after.uuid: after})).obstacles
        assert "do not fit: they need 5 decoders, the board has 4" in found.problem
        applied.make(MigEntry(MigMode.ENABLED, devices={"1g+gfx": 2, "1g": 1, "1g+me": 1}))
