"""PCI functions, their bridges, drivers and IOMMU groups as sysfs shows them; pure.

Sources: Documentation/ABI/testing/sysfs-bus-pci, Documentation/PCI/sysfs-pci.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation.companions import BUILT_IN, companion_slots
from nodeagent.simulation.pci_config_space import (
    DOWNSTREAM,
    ENDPOINT,
    ROOT_PORT,
    UPSTREAM,
    Space,
    config_space,
    with_words,
)
from nodeagent.simulation.profiles import CARDS, vf_address
from nodeagent.simulation.reactions import driver_of, module_of
from nodeagent.simulation.tree_entry import Entries, Entry, Tree, line, link
from nodeagent.simulation.virtual_functions import vf_slots
from nodeagent.state.processes import DeviceNode, DeviceNumber

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile, Slot

VFIO_PCI = "vfio-pci"
_CPUS_PER_NODE = 16


def device_folder(slot: Slot) -> str:
    """Where the function's directory stands: below its root bus and every bridge on the way."""
    return "/".join((paths.SYS_DEVICES, slot.root_bus, *slot.bridges, slot.pci_address))


def pci_drivers(profile: Profile, state: KernelState) -> tuple[str, ...]:
    """PCI drivers that are registered now, by the spelling below /sys/bus/pci/drivers."""
    known = {"nvidia", "nouveau", "vfio_pci", *(CARDS[slot.card].driver for slot in profile.slots)}
    built_in = BUILT_IN if state.companions else ()
    idle = {name for name, module in state.modules.items() if module.parameters.get("modeset") == "0"}
    loaded = known & set(state.modules) - (idle & {"nouveau"})
    return tuple(sorted((*built_in, *map(driver_of, loaded))))


def groups(profile: Profile, state: KernelState) -> Mapping[str, int]:
    """Number of the IOMMU group by address: each function has its own, but for what stands beside a GPU."""
    alone = (*profile.slots, *vf_slots(state, profile))
    numbers = {slot.pci_address: number for number, slot in enumerate(alone)}
    beside = (slot.pci_address for slot in companion_slots(state, profile))
    return numbers | {address: numbers[f"{address[:-1]}0"] for address in beside}


def vfio_number(profile: Profile, state: KernelState, address: str) -> DeviceNumber:
    """The device of its group while vfio-pci has the function; the minor is the group's number here."""
    region = next(region for region in state.regions if region.name == "vfio")
    return DeviceNumber(region.major, groups(profile, state)[address])


def render(profile: Profile, state: KernelState) -> Tree:
    tree: Tree = {}
    numbers = groups(profile, state)
    for slot in (*profile.slots, *companion_slots(state, profile)):
        tree.update(_function(state, slot, numbers[slot.pci_address]))
    for slot in profile.slots:
        for depth, bridge in enumerate(slot.bridges):
            tree.update(_bridge(state, slot, depth, bridge))
    for slot in vf_slots(state, profile):
        tree.update(_function(state, slot, numbers[slot.pci_address]))
        tree.update(_virtual(state, slot))
    for driver in pci_drivers(profile, state):
        tree.update(_driver(profile, state, driver))
    for attribute in ("drivers_probe", "drivers_autoprobe", "rescan"):
        tree[f"{paths.SYS_PCI_BUS}/{attribute}"] = line("1") if attribute == "drivers_autoprobe" else Entry()
    return tree


def _function(state: KernelState, slot: Slot, number: int) -> Entries:
    folder, card = device_folder(slot), CARDS[slot.card]
    class_code = "020700" if slot.link_layer == "InfiniBand" else card.class_code
    address = slot.pci_address
    yield _by_address(folder, address)
    for name, text in (
        ("vendor", f"0x{card.vendor}"),
        ("device", f"0x{card.device}"),
        ("class", f"0x{class_code}"),
        ("subsystem_vendor", f"0x{card.vendor}"),
        ("subsystem_device", "0x0000"),
        ("revision", "0xa1" if card.vendor == "10de" else "0x00"),
        ("numa_node", slot.numa_node),
        ("local_cpulist", f"{slot.numa_node * _CPUS_PER_NODE}-{(slot.numa_node + 1) * _CPUS_PER_NODE - 1}"),
        ("driver_override", state.overrides.get(address) or "(null)"),
        ("enable", int(address in state.drivers)),
        ("modalias", f"pci:v0000{card.vendor.upper()}d0000{card.device.upper()}sv*sd*bc{class_code[:2]}"),
        *_link(card.link_gts, card.link_width, state.pci_widths.get(address)),
    ):
        yield f"{folder}/{name}", line(text)
    space = config_space(Space(card.vendor, card.device, class_code, ENDPOINT))
    yield f"{folder}/config", Entry(data=with_words(space, state.pci_words.get(address, {})))
    if card.total_vfs:
        yield f"{folder}/sriov_totalvfs", line(card.total_vfs)
        yield f"{folder}/sriov_numvfs", line(state.vfs.get(address, 0))
        yield f"{folder}/sriov_drivers_autoprobe", line(int(address not in state.no_vf_probe))
    group = f"{paths.SYS_IOMMU_GROUPS}/{number}"
    yield f"{folder}/iommu_group", link(f"{folder}/iommu_group", group)
    yield f"{group}/type", line("identity")
    yield f"{group}/devices/{address}", link(f"{group}/devices/{address}", folder)
    yield f"{folder}/subsystem", link(f"{folder}/subsystem", paths.SYS_PCI_BUS)
    driver = state.drivers.get(address)
    if driver:
        yield f"{folder}/driver", link(f"{folder}/driver", f"{paths.SYS_PCI_DRIVERS}/{driver}")
    if driver == VFIO_PCI:
        yield from _vfio_group(state, number)


def _vfio_group(state: KernelState, number: int) -> Entries:
    """The group's device, through which a virtual machine has its functions."""
    region = next(region for region in state.regions if region.name == "vfio")
    path = f"{paths.DEV_VFIO}/{number}"
    yield path, Entry(node=DeviceNode(path, region.major, number, 0o600))
    yield f"{paths.SYS_CLASS_VFIO}/{number}/dev", line(f"{region.major}:{number}")


def _virtual(state: KernelState, slot: Slot) -> Entries:
    """The links between a virtual function and its physical one, which stand beside each other."""
    folder = device_folder(slot)
    parent = f"{folder.rpartition('/')[0]}/{slot.physfn}"
    addresses = [vf_address(slot.physfn, index) for index in range(state.vfs[slot.physfn])]
    name = f"virtfn{addresses.index(slot.pci_address)}"
    yield f"{folder}/physfn", link(f"{folder}/physfn", parent)
    yield f"{parent}/{name}", link(f"{parent}/{name}", folder)


def _link(gts: float, width: int, current: int | None = None) -> tuple[tuple[str, str], ...]:
    speed = f"{gts:.1f} GT/s PCIe"
    return (
        ("current_link_speed", speed),
        ("max_link_speed", speed),
        ("current_link_width", str(width if current is None else current)),
        ("max_link_width", str(width)),
    )


def _by_address(folder: str, address: str) -> tuple[str, Entry]:
    place = f"{paths.SYS_PCI_DEVICES}/{address}"
    return place, link(place, folder)


def _bridge(state: KernelState, slot: Slot, depth: int, bridge: str) -> Entries:
    folder = "/".join((paths.SYS_DEVICES, slot.root_bus, *slot.bridges[: depth + 1]))
    yield _by_address(folder, bridge)
    vendor, device = ("1022", "1483") if depth == 0 else ("1000", "c010")
    card = CARDS[slot.card]
    for name, text in (
        ("vendor", f"0x{vendor}"),
        ("device", f"0x{device}"),
        ("class", "0x060400"),
        ("numa_node", slot.numa_node),
        *_link(card.link_gts, card.link_width),
    ):
        yield f"{folder}/{name}", line(text)
    kind = (ROOT_PORT, UPSTREAM, DOWNSTREAM)[min(depth, 2)]
    space = Space(vendor, device, "060400", kind, acs=None if kind == UPSTREAM else 0)
    yield f"{folder}/config", Entry(data=with_words(config_space(space), state.pci_words.get(bridge, {})))


def _driver(profile: Profile, state: KernelState, driver: str) -> Entries:
    folder = f"{paths.SYS_PCI_DRIVERS}/{driver}"
    for attribute in ("bind", "unbind", "new_id"):
        yield f"{folder}/{attribute}", Entry()
    module = module_of(driver)
    if module in state.modules:
        yield f"{folder}/module", link(f"{folder}/module", f"{paths.SYS_MODULE}/{module}")
        place = f"{paths.SYS_MODULE}/{module}/drivers/pci:{driver}"
        yield place, link(place, folder)
    for slot in (*profile.slots, *companion_slots(state, profile), *vf_slots(state, profile)):
        if state.drivers.get(slot.pci_address) == driver:
            place = f"{folder}/{slot.pci_address}"
            yield place, link(place, device_folder(slot))
