"""Virtual functions through the ports: the same assertions hold for the simulated kernel and for plain sysfs trees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError
from nodeagent.host.clock import RealClock
from nodeagent.host.files import LocalFiles
from nodeagent.host.links import RtnlLinks
from nodeagent.host.sriov import SysfsFunctions
from nodeagent.state.network import VfSetting
from sim_node import SimNode, sim_node

PF, VF, NIC = "0000:61:00.0", "0000:61:01.0", "enp97s0np0"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge("modules: {rdma: {stack: inbox}, named: {vfio_pci: {}}}\n")
        yield opened


def test_the_number_is_refused_as_linux_refuses_it(node: SimNode) -> None:
    functions = node.host.links.functions
    functions.set_vf_count(PF, 2)
    with pytest.raises(BusyError):
        functions.set_vf_count(PF, 4)
    functions.set_vf_count(PF, 2)
    functions.set_vf_count(PF, 0)
    with pytest.raises(UnsupportedError, match="it can have 16"):
        functions.set_vf_count(PF, 99)
    with pytest.raises(GoneError):
        functions.set_vf_count("0000:04:00.0", 1)


def test_functions_without_a_driver_and_the_switch_is_put_back(node: SimNode) -> None:
    node.host.links.functions.set_vf_count(PF, 2, bind=False)
    files = node.host.files
    assert files.target(f"/sys/bus/pci/devices/{VF}/driver") is None
    assert files.target(f"/sys/bus/pci/devices/{VF}/physfn") == PF
    assert files.target(f"/sys/bus/pci/devices/{PF}/virtfn0") == VF
    assert files.read(f"/sys/bus/pci/devices/{PF}/sriov_drivers_autoprobe") == "1"


def test_a_driver_that_is_not_there_leaves_the_function_to_its_own(node: SimNode) -> None:
    functions = node.host.links.functions
    functions.set_vf_count(PF, 1)
    node.host.kmod.unload("vfio_pci")
    with pytest.raises(HostError, match=r"bind vfio-pci to 0000:61:01\.0: no driver; load module vfio_pci"):
        functions.set_driver(VF, "vfio-pci")
    assert node.host.files.target(f"/sys/bus/pci/devices/{VF}/driver") == "mlx5_core"


def test_settings_are_kept_by_function_and_gone_with_it(node: SimNode) -> None:
    links = node.host.links
    links.functions.set_vf_count(PF, 2)
    links.set_vf(NIC, 1, VfSetting.VLAN, (5, 3))
    assert [(one.vlan, one.vlan_priority) for one in links.vfs(NIC)] == [(0, 0), (5, 3)]
    with pytest.raises(UnsupportedError):
        links.set_vf(NIC, 2, VfSetting.VLAN, (5, 3))
    with pytest.raises(UnsupportedError, match="not supported"):
        links.set_vf(NIC, 0, VfSetting.NODE_GUID, ("02:00:00:00:00:00:3b:01",))
    links.functions.set_vf_count(PF, 0)
    links.functions.set_vf_count(PF, 2)
    assert [one.vlan for one in links.vfs(NIC)] == [0, 0]


def test_a_group_goes_to_vfio_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    devices, group = tmp_path / "sys/bus/pci/devices", tmp_path / "sys/kernel/iommu_groups/12"
    for address, driver, class_code in (
        ("0000:01:00.0", "mlx5_core", "0x020000"),
        ("0000:01:00.1", "xhci_hcd", "0x0c0330"),
        ("0000:00:01.0", "pcieport", "0x060400"),
    ):
        (devices / address).mkdir(parents=True)
        (devices / address / "class").write_text(class_code)
        (devices / address / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
        (devices / address / "iommu_group").symlink_to("../../../kernel/iommu_groups/12")
        (group / "devices" / address).mkdir(parents=True)
    functions = SysfsFunctions(LocalFiles(str(tmp_path)), RealClock())
    with pytest.raises(BusyError, match=r"function 0000:01:00\.1 of the same IOMMU group 12 is driven by xhci_hcd"):
        functions.set_driver("0000:01:00.0", "vfio-pci")
    (devices / "0000:01:00.0/iommu_group").unlink()
    with pytest.raises(UnsupportedError, match="it is in no IOMMU group"):
        functions.set_driver("0000:01:00.0", "vfio-pci")


def test_a_real_interface_without_virtual_functions_has_none() -> None:
    links = RtnlLinks(LocalFiles())
    assert links.vfs("lo") == ()
    with pytest.raises(GoneError):
        links.vfs("gone0")
