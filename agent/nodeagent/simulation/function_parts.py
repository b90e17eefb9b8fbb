"""What a simulated function may have besides itself: sub-functions, vDPA devices, an index by firmware; accelerators.

A machine has none of it until a test or an administrator makes it. Pure. Sources: linux
drivers/net/ethernet/mellanox/mlx5/core/sf (mlx5_core.sf.N, sfnum, devlink port add), drivers/vdpa/mlx5/net/mlx5_vnet.c
(a vDPA device stands below the function of its management device), drivers/vhost/vdpa.c, drivers/pci/pci-label.c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation.kernel_state import Interface, SubFunction, edited
from nodeagent.simulation.tree_entry import Entries, Entry, Tree, line, link
from nodeagent.simulation.tree_pci import device_folder
from nodeagent.simulation.virtual_functions import slot_at
from nodeagent.state.functions import UIO_DRIVERS
from nodeagent.state.processes import DeviceNode

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile

SF_DRIVER = "mlx5_core.sf"
_VHOST, _LOCAL_MAJOR = "vhost_vdpa", 240  # majors for local use (Documentation/admin-guide/devices.txt)
_ACC100 = (("vendor", "0x8086"), ("device", "0x0d5c"), ("class", "0x120001"), ("numa_node", "0"))


def with_sub_function(state: KernelState, parent: str, number: int) -> KernelState:
    """The kernel once `devlink port add pci/PARENT flavour pcisf sfnum NUMBER` was done and the function activated."""
    name = f"{SF_DRIVER}.{len(state.parts) + 2}"  # the auxiliary device's number is not the administrator's
    netdev = f"enp{int(parent[5:7], 16)}s{int(parent[8:10], 16)}f{parent[-1]}s{number}"  # as systemd names it
    found = Interface(netdev, SF_DRIVER, mac=f"02:00:00:00:00:{number & 0xFF:02x}")
    return replace(
        state,
        parts=edited(state.parts, **{name: SubFunction(parent, number, netdev)}),
        interfaces=edited(state.interfaces, **{netdev: found}),
    )


def with_vdpa(state: KernelState, parent: str, driver: str) -> KernelState:
    """The kernel once `vdpa dev add mgmtdev pci/PARENT` was done and the device bound to vhost_vdpa or virtio_vdpa."""
    return replace(state, vdpa=edited(state.vdpa, **{f"vdpa{len(state.vdpa)}": (parent, driver)}))


def render(profile: Profile, state: KernelState) -> Tree:
    tree: Tree = {}
    for address, number in state.acpi_indexes.items():
        tree[f"{_folder(profile, state, address)}/acpi_index"] = line(number)
    for name, part in state.parts.items():
        tree.update(_part(f"{_folder(profile, state, part.parent)}/{name}", name, part.number))
    for name, (parent, driver) in state.vdpa.items():
        tree.update(_vdpa(f"{_folder(profile, state, parent)}/{name}", name, driver))
    for address, driver in state.accelerators.items():
        tree.update(_accelerator(address, driver))
    return tree


def interface_folder(profile: Profile, state: KernelState, name: str) -> str:
    """Where the interface of a sub-function stands, "" for any other."""
    found = (f"{_folder(profile, state, one.parent)}/{part}" for part, one in state.parts.items() if one.netdev == name)
    return next(found, "")


def _folder(profile: Profile, state: KernelState, address: str) -> str:
    slot = slot_at(state, profile, address)
    return device_folder(slot) if slot is not None else f"{paths.SYS_DEVICES}/virtual/{address}"


def _part(folder: str, name: str, number: int) -> Entries:
    yield f"{paths.SYS_AUXILIARY_DEVICES}/{name}", link(f"{paths.SYS_AUXILIARY_DEVICES}/{name}", folder)
    yield f"{folder}/sfnum", line(number)
    driver = f"{paths.SYS_AUXILIARY_DEVICES.rpartition('/')[0]}/drivers/{SF_DRIVER}"
    yield f"{folder}/driver", link(f"{folder}/driver", driver)


def _vdpa(folder: str, name: str, driver: str) -> Entries:
    yield f"{paths.SYS_VDPA_DEVICES}/{name}", link(f"{paths.SYS_VDPA_DEVICES}/{name}", folder)
    home = f"{paths.SYS_VDPA_DEVICES.rpartition('/')[0]}/drivers/{driver}"
    yield f"{folder}/driver", link(f"{folder}/driver", home)
    if driver == _VHOST:
        number = int(name.removeprefix("vdpa"))
        node = f"{paths.DEV}/vhost-vdpa-{number}"
        yield f"{folder}/vhost-vdpa-{number}/dev", line(f"{_LOCAL_MAJOR}:{number}")
        yield node, Entry(node=DeviceNode(node, _LOCAL_MAJOR, number, 0o600))


def _accelerator(address: str, driver: str) -> Entries:
    """An Intel ACC100 right on a root bus (pci.ids)."""
    folder, place = f"{paths.SYS_DEVICES}/pci{address[:7]}/{address}", f"{paths.SYS_PCI_DEVICES}/{address}"
    yield place, link(place, folder)
    for name, text in _ACC100:
        yield f"{folder}/{name}", line(text)
    if driver:
        yield f"{folder}/driver", link(f"{folder}/driver", f"{paths.SYS_PCI_DRIVERS}/{driver}")
    if driver in UIO_DRIVERS:
        node = f"{paths.DEV}/uio0"
        yield f"{folder}/uio/uio0/dev", line(f"{_LOCAL_MAJOR + 1}:0")
        yield node, Entry(node=DeviceNode(node, _LOCAL_MAJOR + 1, 0, 0o600))
