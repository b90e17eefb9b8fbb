"""Virtual functions of the simulated NICs: how they come, what their physical function keeps for them; pure.

Sources: linux drivers/pci/iov.c (creation, addresses, sriov_numvfs), Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace

from nodeagent.simulation.companions import companion_slots
from nodeagent.simulation.kernel_state import KernelState, edited
from nodeagent.simulation.profiles import CARDS, Profile, Slot, vf_address
from nodeagent.simulation.reactions import bound, driver_of, matches, unbound
from nodeagent.simulation.refused import refused
from nodeagent.state.network import VfLinkState, VfSetting, VirtualFunction

_PORT_NAME = re.compile(r"np\d+$")


def vf_slot(physical: Slot, index: int) -> Slot:
    """The slot of one virtual function: behind the same bridges, its interface named as systemd does it (enp97s0v0)."""
    address = vf_address(physical.pci_address, index)
    netdev = f"{_PORT_NAME.sub('', physical.netdev)}v{index}" if physical.link_layer == "Ethernet" else ""
    card = CARDS[physical.card].vf_card
    return Slot(
        address, card, physical.numa_node, physical.bridges, netdev, "", physical.link_layer, physical.pci_address
    )


def vf_slots(state: KernelState, profile: Profile) -> tuple[Slot, ...]:
    """Every virtual function there is, by physical function and number."""
    return tuple(
        vf_slot(physical, index) for physical in profile.nics for index in range(state.vfs.get(physical.pci_address, 0))
    )


def slot_at(state: KernelState, profile: Profile, address: str) -> Slot | None:
    """The function at an address, physical or virtual, or beside a GPU."""
    found = profile.slot(address) or next(
        (slot for slot in companion_slots(state, profile) if slot.pci_address == address), None
    )
    return found or next((slot for slot in _vf_slots_on_bus(state, profile, address)), None)


def _vf_slots_on_bus(state: KernelState, profile: Profile, address: str) -> Iterator[Slot]:
    """The virtual function at an address; asked for every interface, so that others are not even made."""
    for physical in profile.nics:
        if physical.pci_address[:8] != address[:8]:
            continue
        for index in range(state.vfs.get(physical.pci_address, 0)):
            if vf_address(physical.pci_address, index) == address:
                yield vf_slot(physical, index)


def with_count(state: KernelState, physical: Slot, count: int) -> KernelState:
    """The kernel after a write of `count` to sriov_numvfs. OSError: ENOENT, ERANGE, EBUSY as pci-sysfs.c has it."""
    address, present = physical.pci_address, state.vfs.get(physical.pci_address, 0)
    total = CARDS[physical.card].total_vfs
    if not total or address not in state.drivers:
        raise refused(errno.ENOENT)
    if not 0 <= count <= total:
        raise refused(errno.ERANGE)
    if count == present:
        return state
    if count and present:
        raise refused(errno.EBUSY)
    return _created(state, physical, count) if count else _without(state, address)


def _without(state: KernelState, physfn: str) -> KernelState:
    """Without the virtual functions of this physical function; its own driver and interface stay."""
    for index in range(state.vfs.get(physfn, 0)):
        address = vf_address(physfn, index)
        state = unbound(state, address)
        overrides, settings = (edited(kept, **{address: None}) for kept in (state.overrides, state.vf_settings))
        state = replace(state, overrides=overrides, vf_settings=settings)
    return replace(state, vfs=edited(state.vfs, **{physfn: None}))


def _created(state: KernelState, physical: Slot, count: int) -> KernelState:
    state = replace(state, vfs=edited(state.vfs, **{physical.pci_address: count}))
    if physical.pci_address in state.no_vf_probe:
        return state
    for index in range(count):
        slot = vf_slot(physical, index)
        driver = driver_of(CARDS[slot.card].driver)
        if CARDS[slot.card].driver in state.modules and matches(state, slot, driver):
            state = bound(state, slot, driver)
    return state


def with_setting(
    state: KernelState, netdev: str, which: tuple[int, VfSetting], value: tuple[int | str, ...]
) -> KernelState:
    """What the physical function keeps for a virtual one. OSError: ENODEV, EINVAL without that function.

    The settings are kept as `VfSetting` has them; a MAC is taken over when the function is bound next.
    """
    interface, (index, setting) = state.interfaces.get(netdev), which
    if interface is None:
        raise refused(errno.ENODEV)
    if not 0 <= index < state.vfs.get(interface.pci_address, 0):
        raise refused(errno.EINVAL)
    if setting in (VfSetting.NODE_GUID, VfSetting.PORT_GUID) and interface.driver != "ib_ipoib":
        raise refused(errno.EOPNOTSUPP)
    address = vf_address(interface.pci_address, index)
    merged = {**state.vf_settings.get(address, {}), setting.value: value}
    return replace(state, vf_settings=edited(state.vf_settings, **{address: merged}))


def shown_vf(state: KernelState, physfn: str, index: int) -> VirtualFunction:
    """What rtnetlink tells of a virtual function; untouched it has no MAC, no VLAN, no limits, and spoof checks off."""
    kept = state.vf_settings.get(vf_address(physfn, index), {})
    vlan, priority = kept.get(VfSetting.VLAN.value, (0, 0))
    least, most = kept.get(VfSetting.RATE.value, (0, 0))
    return VirtualFunction(
        index=index,
        mac=kept.get(VfSetting.MAC.value, ("00:00:00:00:00:00",))[0],
        vlan=vlan,
        vlan_priority=priority,
        spoofchk=bool(kept.get(VfSetting.SPOOFCHK.value, (0,))[0]),
        trust=bool(kept.get(VfSetting.TRUST.value, (0,))[0]),
        link_state=VfLinkState(kept.get(VfSetting.LINK_STATE.value, ("auto",))[0]),
        min_rate_mbps=least,
        max_rate_mbps=most,
        node_guid=kept.get(VfSetting.NODE_GUID.value, ("",))[0],
        port_guid=kept.get(VfSetting.PORT_GUID.value, ("",))[0],
    )
