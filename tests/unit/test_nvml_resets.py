"""Which GPUs are remembered as those that the driver cannot reset, and for how long."""

from __future__ import annotations

import pytest

from mig_world import board
from nodeagent.errors import BusyError, UnsupportedError
from nodeagent.host.nvml_resets import Unresettable
from nodeagent.state.gpu import MigMode

PENDING = {"mig_mode": MigMode.DISABLED, "pending_mig_mode": MigMode.ENABLED}


def refuse(memory: Unresettable, uuid: str, error: type[Exception]) -> None:
    with pytest.raises(error), memory.watch(uuid):
        raise error("enable MIG on", f"gpu {uuid}", "no")


def test_a_refused_reset_marks_the_gpu_while_the_mode_is_pending():
    memory, stuck, other = Unresettable(), board(0, **PENDING), board(1, **PENDING)
    refuse(memory, stuck.uuid, UnsupportedError)
    assert [one.needs_reboot for one in memory.mark([stuck, other])] == [True, False]
    assert [one.needs_reboot for one in memory.mark([stuck, other])] == [True, False]


def test_what_is_no_longer_pending_is_forgotten():
    memory, stuck = Unresettable(), board(0, **PENDING)
    refuse(memory, stuck.uuid, UnsupportedError)
    assert not memory.mark([board(0)])[0].needs_reboot
    assert not memory.mark([stuck])[0].needs_reboot


def test_success_and_other_refusals_mark_nothing():
    memory, stuck = Unresettable(), board(0, **PENDING)
    refuse(memory, stuck.uuid, BusyError)
    assert not memory.mark([stuck])[0].needs_reboot
    refuse(memory, stuck.uuid, UnsupportedError)
    with memory.watch(stuck.uuid):
        pass
    assert not memory.mark([stuck])[0].needs_reboot
