"""PCI Express settings on a simulated node: what is set, what is refused, and what becomes of a write that vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import DeniedError, UnsupportedError
from nodeagent.host.pci_config import CONFIG_BYTES, locate, parse_config
from nodeagent.host.ports import Files
from nodeagent.simulation.kernel_state import Policy
from nodeagent.state.topology import ACS_REDIRECT_BITS, PcieSetting
from sim_node import SimNode, Told, sim_node

NIC = "0000:0c:00.0"
WISH = "pcie: {max_read_request: 4096, relaxed_ordering: true, acs_redirect: false}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "dgx-a100", "in-process") as opened:
        yield opened


def _value(files: Files, address: str, setting: PcieSetting) -> int | None:
    config = parse_config(files.read_bytes(f"/sys/bus/pci/devices/{address}/config", CONFIG_BYTES))
    assert config is not None
    return config.value(setting)


def _bridges(node: SimNode) -> list[str]:
    """The two downstream ports between GPU 0 and its NIC."""
    pci = node.observer.observe(()).pci
    return [pci[address].path[-2] for address in ("0000:07:00.0", NIC)]


def _spoil(node: SimNode) -> None:
    functions = node.host.links.functions
    functions.set_pcie(NIC, PcieSetting.MAX_READ_REQUEST, 512)
    functions.set_pcie(NIC, PcieSetting.RELAXED_ORDERING, 0)
    for bridge in _bridges(node):
        functions.set_pcie(bridge, PcieSetting.ACS_REDIRECT, ACS_REDIRECT_BITS)


def test_what_firmware_left_slow_is_set_and_stays(node: SimNode) -> None:
    assert node.converge(WISH).steps_taken == 0
    _spoil(node)
    told = Told()
    assert node.converge(WISH, told).plan.converged
    assert sorted(told.lines) == sorted(
        [
            f"act set max read request of {NIC} to 4096 (is 512)",
            f"act set relaxed ordering of {NIC} to on (is off)",
            *(f"act set acs redirect of {bridge} to 0x0 (is 0x1c)" for bridge in _bridges(node)),
        ]
    )
    assert _value(node.host.files, NIC, PcieSetting.MAX_READ_REQUEST) == 4096
    assert node.converge(WISH).steps_taken == 0


def test_undo_puts_back_the_old_register(node: SimNode) -> None:
    _spoil(node)
    for transition in node.plan(WISH).transitions:
        for step in transition.acts:
            before = _value(node.host.files, step.subject.name, step.setting)
            step.apply(node.host)
            undo = step.undo()
            assert undo is not None
            undo.apply(node.host)
            assert _value(node.host.files, step.subject.name, step.setting) == before


def test_acs_stays_where_functions_go_to_virtual_machines(node: SimNode) -> None:
    _spoil(node)
    node.converge("modules: {rdma: {}}\nsriov: [{match: '0000:e1:00.0', vfs: 1}]")
    vf = node.observer.observe(()).pci["0000:e1:00.0"].vf_addresses[0]
    node.host.files.write(f"/sys/bus/pci/devices/{vf}/driver_override", "vfio-pci")
    plan = node.plan(WISH)
    (obstacle,) = plan.obstacles
    assert obstacle.problem == (
        f"redirect stays on {', '.join(sorted(_bridges(node)))}: functions go to virtual machines ({vf}), "
        "which it keeps apart"
    )
    assert all("acs" not in str(step) for transition in plan.transitions for step in transition.acts)


def test_lockdown_and_bits_that_are_not_there_are_errors_and_not_success(node: SimNode) -> None:
    functions = node.host.links.functions
    (upstream,) = {node.observer.observe(()).pci[NIC].path[2]}
    with pytest.raises(UnsupportedError, match=r"set acs redirect of .*: its configuration space does not show that"):
        functions.set_pcie(upstream, PcieSetting.ACS_REDIRECT, 0)
    with pytest.raises(
        UnsupportedError, match=r"set max read request of .*: reads back as 2048 after 3000 was written"
    ):
        functions.set_pcie(NIC, PcieSetting.MAX_READ_REQUEST, 3000)
    node.node.kernel.set_policy(Policy(lockdown="integrity"))
    with pytest.raises(DeniedError, match="kernel lockdown forbids it to root as well"):
        functions.set_pcie(NIC, PcieSetting.MAX_READ_REQUEST, 128)


def test_other_registers_do_not_change(node: SimNode) -> None:
    path = f"/sys/bus/pci/devices/{NIC}/config"
    before = node.host.files.read_bytes(path, CONFIG_BYTES)
    node.host.files.write_bytes(path, b"\0\0", 0)
    assert node.host.files.read_bytes(path, CONFIG_BYTES) == before
    node.host.links.functions.set_pcie(NIC, PcieSetting.MAX_READ_REQUEST, 128)
    after = node.host.files.read_bytes(path, CONFIG_BYTES)
    field = locate(before, PcieSetting.MAX_READ_REQUEST)
    assert field is not None
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [field.offset + 1]
    config = parse_config(before)
    assert parse_config(after) == replace(config, max_read_request_bytes=128) if config else False
