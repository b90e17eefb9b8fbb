"""Facts about functions that only pools ask for: the simulated kernel and trees as Linux lays them out say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.host.function_facts import read_function_facts
from nodeagent.host.link_facts import read_netdevs
from nodeagent.host.pci_facts import read_pci
from nodeagent.simulation.function_parts import with_sub_function, with_vdpa
from nodeagent.simulation.kernel_state import KernelState, edited
from nodeagent.state.functions import Asked, AuxiliaryDevice, FunctionFacts, VdpaDevice
from sim_node import SimNode, sim_node
from trees import make_tree

PF, VF, SECOND_VF, CARD = "0000:61:00.0", "0000:61:01.0", "0000:61:01.1", "0000:8a:00.0"
SF = "mlx5_core.sf.2"
PART = AuxiliaryDevice(SF, PF, "sf", 88, "mlx5_core.sf", "enp97s0f0s88")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(f'modules: {{rdma: {{stack: inbox}}}}\nsriov: [{{match: "{PF}", vfs: 2}}]\n')
        opened.node.kernel.change(_furnished)
        yield opened


def _furnished(state: KernelState) -> KernelState:
    state = with_sub_function(with_vdpa(with_vdpa(state, VF, "vhost_vdpa"), SECOND_VF, "virtio_vdpa"), PF, 88)
    return replace(
        state, acpi_indexes={PF: 3}, accelerators={CARD: "igb_uio"}, partition_keys=edited({}, mlx5_1=0x8001)
    )


def facts(node: SimNode, *asked: Asked) -> FunctionFacts:
    return read_function_facts(node.host.files, asked, read_pci(node.host.files))


def test_the_simulated_kernel_tells_all_of_it(node: SimNode) -> None:
    found = facts(node, *Asked)
    assert found.acpi_indexes == {PF: "3"}
    assert {address: key for address, key in found.partition_keys.items() if key != 0xFFFF} == {"0000:e1:00.0": 0x8001}
    assert found.vdpa == {VF: VdpaDevice("vdpa0", "vhost_vdpa", "/dev/vhost-vdpa-0"),
                          SECOND_VF: VdpaDevice("vdpa1", "virtio_vdpa")}  # fmt: skip
    assert found.auxiliary == {SF: PART}
    (card,) = found.accelerators.values()
    assert (card.address, card.vendor, card.device, card.driver, card.numa_node) == (CARD, "8086", "0d5c", "igb_uio", 0)
    netdev = read_netdevs(node.host.files, {})[PART.netdev]
    assert (netdev.pci_address, netdev.driver) == ("", "mlx5_core.sf")
    assert found.uio == {CARD: "/dev/uio0"}
    assert CARD not in read_pci(node.host.files), "no other part of the agent deals with it"


def test_what_is_not_asked_for_is_not_read(node: SimNode) -> None:
    assert facts(node) == FunctionFacts()
    for one in Asked:
        found = facts(node, one)
        shown = (found.acpi_indexes, found.partition_keys, found.vdpa, found.auxiliary, found.accelerators)
        assert sum(map(bool, shown)) == 1, one


def test_parts_go_with_their_function(node: SimNode) -> None:
    node.converge(f'modules: {{rdma: {{stack: inbox}}}}\nsriov: [{{match: "{PF}", vfs: 0}}]\n')
    assert facts(node, Asked.VDPA).vdpa == {}
    assert set(facts(node, Asked.AUXILIARY).auxiliary) == {SF}
    node.converge("modules: {absent: [mlx5_core, mlx5_ib]}\n")
    assert facts(node, Asked.AUXILIARY).auxiliary == {}
    assert PART.netdev not in read_netdevs(node.host.files, {})
    assert facts(node, Asked.ACCELERATORS).accelerators.keys() == {CARD}


def test_sysfs_as_linux_lays_it_out(tmp_path: Path) -> None:
    """Nested parts (mlx5_core.eth.2 below the sub-function) and vDPA devices on sub-functions belong to them."""
    card = f"/sys/devices/pci0000:60/0000:60:03.1/{PF}"
    part = f"{card}/{SF}"
    texts = {
        f"{card}/acpi_index": "3", f"{card}/class": "0x020000", f"{part}/sfnum": "88",
        f"{part}/net/enp97s0f0s88/mtu": "1500", f"{part}/infiniband/mlx5_4/node_guid": "0000:0000:0000:0000",
        f"{part}/mlx5_core.eth.2/uevent": "", f"{part}/vdpa0/vhost-vdpa-0/dev": "511:0",
        f"{card}/infiniband/mlx5_0/ports/1/pkeys/0": "0x7fff",
        "/sys/bus/auxiliary/drivers/mlx5_core.sf/uevent": "",
    }  # fmt: skip
    links = {
        f"/sys/bus/pci/devices/{PF}": f"../../..{card[4:]}",
        f"/sys/bus/auxiliary/devices/{SF}": f"../../..{part[4:]}",
        "/sys/bus/auxiliary/devices/mlx5_core.eth.2": f"../../..{part[4:]}/mlx5_core.eth.2",
        f"{part}/driver": "../../../../../bus/auxiliary/drivers/mlx5_core.sf",
        "/sys/bus/vdpa/devices/vdpa0": f"../../..{part[4:]}/vdpa0",
        "/sys/class/infiniband/mlx5_0": f"../..{card[4:]}/infiniband/mlx5_0",
        f"{card}/infiniband/mlx5_0/device": f"../../../{PF}",
    }
    files = make_tree(tmp_path, texts, links)
    found = read_function_facts(files, Asked, read_pci(files))
    assert found.auxiliary[SF] == replace(PART, rdma="mlx5_4")
    assert found.auxiliary["mlx5_core.eth.2"].parent == PF
    assert (found.acpi_indexes, found.vdpa, found.accelerators) == ({PF: "3"}, {}, {})
    assert found.partition_keys == {PF: 0x7FFF}
