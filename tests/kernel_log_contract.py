"""What the kernel's log must tell: the same assertions run on the simulated and on a real one.

What makes the kernel write is a module that it refuses: rdma_ucm without what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from nodeagent.errors import HostError

if TYPE_CHECKING:
    from nodeagent.host.ports import KernelLog, Kmod

MODULE = "rdma_ucm"
WORDS = f"{MODULE}: Unknown symbol"


@dataclass(frozen=True)
class Machine:
    log: KernelLog
    kmod: Kmod

    def provoke(self) -> None:
        """Make the kernel write a line about MODULE."""
        with pytest.raises(HostError):
            self.kmod.load(MODULE)


def lines_after_the_mark_are_told(machine: Machine) -> None:
    mark = machine.log.mark()
    assert not [line for line in machine.log.since(mark) if WORDS in line]
    machine.provoke()
    assert [line for line in machine.log.since(mark) if line.startswith(WORDS)]


def telling_them_once_does_not_use_them_up(machine: Machine) -> None:
    mark = machine.log.mark()
    machine.provoke()
    before = machine.log.since(mark)
    assert machine.log.since(mark)[: len(before)] == before


def a_later_mark_leaves_out_what_was_before(machine: Machine) -> None:
    first = machine.log.mark()
    machine.provoke()
    second = machine.log.mark()
    assert second > first
    assert not [line for line in machine.log.since(second) if WORDS in line]
    machine.provoke()
    once = sum(WORDS in line for line in machine.log.since(second))
    assert once
    assert sum(WORDS in line for line in machine.log.since(first)) == 2 * once


def lines_are_without_time_level_and_line_ends(machine: Machine) -> None:
    mark = machine.log.mark()
    machine.provoke()
    for line in machine.log.since(mark):
        assert line == line.strip()
        assert not line.startswith(("[", "<"))
        assert "\n" not in line


CONTRACT: tuple[Callable[[Machine], None], ...] = (
    lines_after_the_mark_are_told,
    telling_them_once_does_not_use_them_up,
    a_later_mark_leaves_out_what_was_before,
    lines_are_without_time_level_and_line_ends,
)
