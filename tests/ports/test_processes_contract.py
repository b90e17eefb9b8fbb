"""The contract of tests/processes_contract.py: on this machine, and with real and made-up processes on a simulated one.

The guest of tests/vm has it on a stock kernel, with what needs a machine of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.ports import Host
from nodeagent.host.process_facts import read_majors
from nodeagent.host.processes import ProcProcesses
from nodeagent.simulation.node import SimulatedNode, open_node
from nodeagent.state.processes import DeviceNode, DeviceNumber
from processes_contract import (
    CONTRACT,
    PRIVILEGED,
    Machine,
    Programs,
    a_node_that_is_removed_while_it_is_open_is_held_all_the_same,
)

Clause = Callable[[Machine], None]
DEVICE = DeviceNode("/dev/nvidia0", 195, 0)
FULL = DeviceNumber(1, 7)  # Documentation/admin-guide/devices.txt: /dev/full
GIB = 1 << 30


def clauses(*chosen: Clause) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("clause", chosen, ids=lambda clause: clause.__name__)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimulatedNode]:
    opened = open_node("dgx-a100", str(tmp_path / "n"))
    yield opened
    opened.machine.close()


@pytest.fixture
def host(node: SimulatedNode) -> Host:
    host = node.host(nvml="in-process")
    for file in host.kmod.lookup("nvidia_uvm"):
        host.kmod.load(file.name)
    for found in (DEVICE, DeviceNode("/dev/nvidia-uvm", read_majors(host.files)["nvidia-uvm"], 0)):
        host.files.make_device_node(found)
    return host


@clauses(*CONTRACT)
def test_contract_on_this_machine(clause: Clause) -> None:
    programs = Programs("/dev/full")
    processes = ProcProcesses(LocalFiles())
    clause(
        Machine(processes, FULL, lambda _container, _pod: programs.start(), programs.end, programs.name, lambda: None)
    )


@clauses(*CONTRACT, a_node_that_is_removed_while_it_is_open_is_held_all_the_same)
def test_contract_with_real_processes_on_a_simulated_node(node: SimulatedNode, host: Host, clause: Clause) -> None:
    programs = Programs(node.directory + DEVICE.path)
    clause(Machine(
        host.processes, DeviceNumber(195, 0), lambda _container, _pod: programs.start(), programs.end, programs.name,
        lambda: host.files.remove(DEVICE.path),
    ))  # fmt: skip


@clauses(*CONTRACT, *PRIVILEGED)
def test_contract_with_made_up_processes_on_a_simulated_node(node: SimulatedNode, host: Host, clause: Clause) -> None:
    clause(Machine(
        host.processes, DeviceNumber(195, 0),
        lambda container, pod: node.start_job(0, "train.py", GIB, container, pod), node.end_job, "train.py",
        lambda: host.files.remove(DEVICE.path),
    ))  # fmt: skip
