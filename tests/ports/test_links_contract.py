"""The contract of tests/links_contract.py on the simulated kernel's interfaces, and on real ones in a namespace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import links_on_veth
from link_settings_contract import OF_A_DRIVER
from links_contract import CONTRACT, Machine
from nodeagent.host.ports import Host
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.node import SimulatedNode, open_node

NAME, ADDRESS = "enp12s0np0", "0000:0c:00.0"
CLAUSES = pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
OF_DRIVERS = pytest.mark.parametrize("clause", OF_A_DRIVER, ids=lambda clause: clause.__name__)


@CLAUSES
def test_contract_on_the_simulated_kernel(clause: Callable[[Machine], None], tmp_path: Path) -> None:
    node = open_node("dgx-a100", str(tmp_path / "n"))
    clause(simulated_machine(node, node.host(nvml="in-process")))
    node.machine.close()


@OF_DRIVERS
def test_contract_of_drivers_on_the_simulated_kernel(clause: Callable[[Machine], None], tmp_path: Path) -> None:
    """tests/vm/guest/test_nic_driver.py has it on e1000e."""
    test_contract_on_the_simulated_kernel(clause, tmp_path)


def simulated_machine(node: SimulatedNode, host: Host) -> Machine:
    for file in host.kmod.lookup("mlx5_core"):
        host.kmod.load(file.name)

    def route(text: str) -> None:
        node.use_interface(NAME, default_route=text.startswith("default"), route="" if "default" in text else text)

    def neighbour(text: str) -> None:
        changed = replace(node.kernel.state.interfaces[NAME], neighbours=(text,))
        node.kernel.change(lambda state: replace(state, interfaces=edited(state.interfaces, **{NAME: changed})))

    return Machine(
        links=host.links,
        files=host.files,
        name=NAME,
        address=lambda text: node.use_interface(NAME, text),
        route=route,
        neighbour=neighbour,
        unplug=lambda: host.files.write(f"/sys/bus/pci/devices/{ADDRESS}/driver/unbind", ADDRESS),
    )


@CLAUSES
def test_contract_on_a_real_kernel(clause: Callable[[Machine], None]) -> None:
    links_on_veth.run(clause.__name__)
