"""What units must do around a step: the same assertions run on the simulated node and under a real systemd.

To extend it: a function, and its name in CONTRACT. The machine has the unit installed and stopped, and the nvidia
driver loaded with its device node, without which the unit's program could not run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nodeagent.errors import GoneError
from nodeagent.host.ports import Processes, Services

UNIT = "nvidia-persistenced.service"
UNKNOWN = "no-such-thing.service"
NVIDIA_MAJOR = 195


@dataclass(frozen=True)
class Machine:
    services: Services
    processes: Processes

    def pids(self) -> tuple[int, ...]:
        """Processes of the unit, which must be running."""
        (found,) = self.services.show([UNIT])
        assert found.active
        return found.pids


def a_unit_that_is_stopped_is_known_and_not_active(machine: Machine) -> None:
    (found,) = machine.services.show([UNIT])
    assert (found.unit, found.active, found.pids) == (UNIT, False, ())


def a_unit_starts_and_stops(machine: Machine) -> None:
    machine.services.start(UNIT)
    assert len(machine.pids()) >= 1
    machine.services.stop(UNIT)
    a_unit_that_is_stopped_is_known_and_not_active(machine)


def its_processes_are_those_that_hold_the_gpu_and_name_it(machine: Machine) -> None:
    machine.services.start(UNIT)
    holders = {found.pid: found.unit for found in machine.processes.holding([NVIDIA_MAJOR])}
    assert holders == dict.fromkeys(machine.pids(), UNIT)
    machine.services.stop(UNIT)
    assert machine.processes.holding([NVIDIA_MAJOR]) == ()


def what_is_so_already_is_no_error_and_changes_nothing(machine: Machine) -> None:
    machine.services.stop(UNIT)
    machine.services.start(UNIT)
    before = machine.pids()
    machine.services.start(UNIT)
    assert machine.pids() == before
    machine.services.stop(UNIT)
    machine.services.stop(UNIT)


def a_start_after_a_stop_is_another_process(machine: Machine) -> None:
    machine.services.start(UNIT)
    before = machine.pids()
    machine.services.stop(UNIT)
    machine.services.start(UNIT)
    assert not set(machine.pids()) & set(before)


def an_unknown_unit_is_left_out_and_cannot_be_changed(machine: Machine) -> None:
    assert [found.unit for found in machine.services.show([UNKNOWN, UNIT])] == [UNIT]
    assert machine.services.show([]) == ()
    for call, verb in ((machine.services.start, "start"), (machine.services.stop, "stop")):
        with pytest.raises(GoneError, match=rf"^{verb} {UNKNOWN}: .*{UNKNOWN}.* not (found|loaded)"):
            call(UNKNOWN)


def a_name_without_its_kind_is_a_service(machine: Machine) -> None:
    short = UNIT.removesuffix(".service")
    machine.services.start(short)
    (found,) = machine.services.show([short])
    assert (found.unit, found.active) == (UNIT, True)
    machine.services.stop(short)
    a_unit_that_is_stopped_is_known_and_not_active(machine)


CONTRACT: tuple[Callable[[Machine], None], ...] = (
    a_unit_that_is_stopped_is_known_and_not_active,
    a_unit_starts_and_stops,
    its_processes_are_those_that_hold_the_gpu_and_name_it,
    what_is_so_already_is_no_error_and_changes_nothing,
    a_start_after_a_stop_is_another_process,
    an_unknown_unit_is_left_out_and_cannot_be_changed,
    a_name_without_its_kind_is_a_service,
)
