"""Who has a device open, on every kernel: the same assertions run on the simulated and on a real one.

To extend it: a function, and its name in CONTRACT, or in PRIVILEGED where the real machine must be one's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nodeagent.host.ports import Processes
from nodeagent.state.processes import DeviceNumber, Process

NO_SUCH_PID = 4_194_303  # the kernel's PID_MAX_LIMIT less one: not given on any machine of the tests
CONTAINER = "0123456789abcdef" * 4
POD = "9b1a7c5e-1f2d-4c3b-8a9e-0d1c2b3a4f5e"


@dataclass(frozen=True)
class Machine:
    """A machine by its port, and a device on it that others may have open too.

    `start` begins a process that has the device open, in the container of this id (and pod) if it is given; `end` ends
    it. `name` is what such a process is called; `remove_node` takes the device's node away.
    """

    processes: Processes
    device: DeviceNumber
    start: Callable[[str, str], int]
    end: Callable[[int], None]
    name: str
    remove_node: Callable[[], None]

    @contextmanager
    def holder(self, container: str = "", pod: str = "") -> Iterator[int]:
        pid = self.start(container, pod)
        try:
            yield pid
        finally:
            self.end(pid)

    def found(self, pid: int, *majors: int) -> tuple[Process, ...]:
        """What `holding` says of this process, by the majors given or by the device's own."""
        holders = self.processes.holding(majors or (self.device.major,))
        return tuple(process for process in holders if process.pid == pid)


class Programs:
    """Real processes, each a shell that has the file at `path` open twice."""

    name = "sh"

    def __init__(self, path: str) -> None:
        self._path = path
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> int:
        """It has the file open when this returns, and ends with its standard input at the latest."""
        program = f'exec 8<"{self._path}" 9<"{self._path}"; echo; read wait'
        process = subprocess.Popen(["sh", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        self._running[process.pid] = process
        return process.pid

    def end(self, pid: int) -> None:
        self._running.pop(pid).communicate()


def a_holder_is_found_with_its_name_and_what_it_has_open(machine: Machine) -> None:
    with machine.holder() as pid:
        (found,) = machine.found(pid)
        assert found.name == machine.name
        assert found.command.split()[0].endswith(machine.name)
        assert machine.device in found.opens
        assert list(found.opens) == sorted(set(found.opens))  # however often it has it open
        assert (found.container, found.pod_uid) == ("", "")


def one_that_has_ended_holds_nothing_and_is_nobody(machine: Machine) -> None:
    with machine.holder() as pid:
        assert len(machine.processes.describe([pid])) == 1
    assert machine.found(pid) == ()
    assert machine.processes.describe([pid]) == ()


def only_the_majors_that_are_asked_for_count(machine: Machine) -> None:
    with machine.holder() as pid:
        assert machine.processes.holding([]) == ()
        assert machine.found(pid, 254) == ()
        (both,) = machine.found(pid, 254, machine.device.major)
        assert {number.major for number in both.opens} == {machine.device.major}


def described_are_those_that_exist_in_the_order_asked_for(machine: Machine) -> None:
    with machine.holder() as first, machine.holder() as second:
        found = machine.processes.describe([second, NO_SUCH_PID, first])
        assert {process.pid for process in found} == {first, second}
        assert {process.opens for process in found} == {()}
        assert {process.name for process in found} == {machine.name}
    assert machine.processes.describe([]) == ()


def two_holders_are_two(machine: Machine) -> None:
    with machine.holder() as first, machine.holder() as second:
        pids = [process.pid for process in machine.processes.holding([machine.device.major])]
        assert pids.count(first) == pids.count(second) == 1
        assert pids == sorted(pids)


def a_node_that_is_removed_while_it_is_open_is_held_all_the_same(machine: Machine) -> None:
    with machine.holder() as pid:
        machine.remove_node()
        (found,) = machine.found(pid)
        assert machine.device in found.opens


def a_process_in_a_container_names_it(machine: Machine) -> None:
    with machine.holder(CONTAINER) as pid:
        (found,) = machine.found(pid)
        assert (found.container, found.pod_uid, found.unit) == (CONTAINER, "", "")
        assert machine.processes.describe([pid])[0].container == CONTAINER


def a_process_in_a_pod_names_both(machine: Machine) -> None:
    with machine.holder(CONTAINER, POD) as pid:
        (found,) = machine.found(pid)
        assert (found.container, found.pod_uid, found.unit) == (CONTAINER, POD, "")
        assert str(found).endswith(f" in container {CONTAINER[:12]} (pod {POD})")


CONTRACT: tuple[Callable[[Machine], None], ...] = (
    a_holder_is_found_with_its_name_and_what_it_has_open,
    one_that_has_ended_holds_nothing_and_is_nobody,
    only_the_majors_that_are_asked_for_count,
    described_are_those_that_exist_in_the_order_asked_for,
    two_holders_are_two,
)
PRIVILEGED: tuple[Callable[[Machine], None], ...] = (
    a_node_that_is_removed_while_it_is_open_is_held_all_the_same,
    a_process_in_a_container_names_it,
    a_process_in_a_pod_names_both,
)
