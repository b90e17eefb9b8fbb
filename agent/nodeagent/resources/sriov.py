"""Section `sriov`: the number of virtual functions, what is set for them, and who drives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.devlink import reloads
from nodeagent.resources.devlink_steps import SetEswitchMode
from nodeagent.resources.function_selection import physical_functions
from nodeagent.resources.link_selection import what_there_is
from nodeagent.resources.sriov_steps import BindFunction, MakeVfs, RemoveVfs, SetVf
from nodeagent.spec.schema import NodeSpec
from nodeagent.spec.sriov import SriovEntry, VfDriver
from nodeagent.state.devlink import EswitchMode
from nodeagent.state.network import Netdev, PciFunction, VfSetting, VirtualFunction
from nodeagent.state.node import NodeState
from nodeagent.state.things import pci

WANTED = "the node file wants it so"
VFIO_PCI = "vfio-pci"
# Taken over by the virtual function's driver only when it is bound (roce.md 6, step 7).
AT_BIND = (VfSetting.MAC, VfSetting.NODE_GUID, VfSetting.PORT_GUID)


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every physical function that an entry matches. New functions are set up in the pass after their making,
    when it is known which they are.
    """
    obstacles: list[Obstacle] = []
    steps: list[Step] = []
    reloading = reloads(spec, state)
    found_by = _entries_by_function(spec, state)
    for address, entries in found_by.items():
        found = state.pci[address]
        problem = clash(found, entries) if len(entries) > 1 else refusal(found, entries[0], state)
        if problem is not None:
            obstacles.append(problem)
        elif address in reloading:
            waits = "it is reloaded with other devlink parameters first"
            obstacles.append(_obstacle(found, waits, "its virtual functions are looked at after that", waits=True))
        else:
            steps += function_steps(found, entries[0], state)
    obstacles += [unmatched(entry, state) for entry in spec.sriov if not physical_functions(entry.match, state)]
    return Wish(tuple(steps), tuple(obstacles), decided=tuple(pci(address) for address in found_by))


def _entries_by_function(spec: NodeSpec, state: NodeState) -> Mapping[str, tuple[SriovEntry, ...]]:
    found: dict[str, tuple[SriovEntry, ...]] = {}
    for entry in spec.sriov:
        for address in physical_functions(entry.match, state):
            found[address] = (*found.get(address, ()), entry)
    return dict(sorted(found.items()))


def function_steps(found: PciFunction, entry: SriovEntry, state: NodeState) -> Iterator[Step]:
    """From one number or eswitch mode to another only through 0 (pci-sysfs.c says EBUSY, drivers refuse); what is right
    already is never made anew.
    """
    subject, unit = pci(found.address), _unit(found)
    present = len(found.vf_addresses)
    bind = _driver(entry) is None
    switch = tuple(_switch_steps(found, entry, state))
    if present != entry.vfs or switch:
        if present:
            old = found.vf_addresses
            yield RemoveVfs(subject=subject, unit=unit, reason=WANTED, count=present, addresses=old)
        yield from switch
        if entry.vfs:
            known = found.vf_addresses[: entry.vfs] if bind else ()
            yield MakeVfs(subject=subject, unit=unit, reason=WANTED, count=entry.vfs, bind=bind, known=known)
        return
    netdev = _netdev(found, state)
    for index, address in enumerate(found.vf_addresses):
        virtual = state.pci.get(address)
        if virtual is not None:
            settings = tuple(_setting_steps(virtual, index, netdev, entry)) if netdev is not None else ()
            yield from settings
            yield from _bind_steps(virtual, entry, anew=any(step.setting in AT_BIND for step in settings))


def _switch_steps(found: PciFunction, entry: SriovEntry, state: NodeState) -> Iterator[SetEswitchMode]:
    before = _eswitch(found, state)
    if entry.eswitch_mode is None or before is None or entry.eswitch_mode is before:
        return
    netdev = _netdev(found, state)
    yield SetEswitchMode(
        subject=pci(found.address),
        unit=_unit(found),
        reason=WANTED,
        mode=entry.eswitch_mode,
        before=before,
        interface=netdev.name if netdev is not None else "",
    )


def _eswitch(found: PciFunction, state: NodeState) -> EswitchMode | None:
    known = state.devlink.get(found.address)
    return known.eswitch_mode if known is not None else None


def _driver(entry: SriovEntry) -> VfDriver | None:
    """MAC addresses and GUIDs must be there before the driver, so an entry with some decides about it."""
    return entry.driver or (VfDriver.DEFAULT if entry.macs or entry.guids else None)


def _netdev(found: PciFunction, state: NodeState) -> Netdev | None:
    return next((one for one in state.netdevs.values() if one.pci_address == found.address), None)


def _setting_steps(virtual: PciFunction, index: int, netdev: Netdev, entry: SriovEntry) -> Iterator[SetVf]:
    kept = next((one for one in netdev.vfs if one.index == index), VirtualFunction(index))
    for setting, wanted in wanted_settings(entry, index, kept).items():
        before = kept.value(setting)
        if before is not None and before != wanted:
            yield SetVf(
                subject=pci(virtual.address),
                unit=f"sriov/{virtual.physfn}",
                reason=WANTED,
                netdev=netdev.name,
                index=index,
                setting=setting,
                wanted=wanted,
                before=before,
            )


def wanted_settings(entry: SriovEntry, index: int, kept: VirtualFunction) -> Mapping[VfSetting, tuple[int | str, ...]]:
    """What an entry has a say in, for one virtual function."""
    wanted: dict[VfSetting, tuple[int | str, ...]] = {}
    if index < len(entry.macs):
        wanted[VfSetting.MAC] = (entry.macs[index],)
    if index < len(entry.guids):
        wanted[VfSetting.NODE_GUID] = wanted[VfSetting.PORT_GUID] = (entry.guids[index],)
    if entry.vlan is not None:
        wanted[VfSetting.VLAN] = (entry.vlan, kept.vlan_priority if entry.vlan else 0)
    if entry.max_rate_mbps is not None:
        wanted[VfSetting.RATE] = (kept.min_rate_mbps, entry.max_rate_mbps)
    if entry.spoofchk is not None:
        wanted[VfSetting.SPOOFCHK] = (int(entry.spoofchk),)
    if entry.trust is not None:
        wanted[VfSetting.TRUST] = (int(entry.trust),)
    if entry.link_state is not None:
        wanted[VfSetting.LINK_STATE] = (entry.link_state.value,)
    return wanted


def _bind_steps(virtual: PciFunction, entry: SriovEntry, *, anew: bool) -> Iterator[Step]:
    driver = _driver(entry)
    if driver is None:
        return
    wanted = VFIO_PCI if driver is VfDriver.VFIO_PCI else ""
    right = virtual.driver == VFIO_PCI if wanted else virtual.driver not in ("", VFIO_PCI)
    if not right or (anew and not wanted):
        unit = f"sriov/{virtual.physfn}"
        yield BindFunction(subject=pci(virtual.address), unit=unit, reason=WANTED, driver=wanted, before=virtual.driver)


def refusal(found: PciFunction, entry: SriovEntry, state: NodeState) -> Obstacle | None:
    """Why a wish cannot become steps: too many functions, no interface to set them up through, no IOMMU, no module."""
    if entry.vfs > found.total_vfs:
        problem = f"it can have {found.total_vfs} virtual functions, {entry.vfs} are wanted"
        return _obstacle(found, problem, "raise it in the firmware (mlxconfig SRIOV_EN=1 NUM_OF_VFS=n) and reboot")
    if entry.eswitch_mode is not None and _eswitch(found, state) is None:
        advice = "load its driver; only physical functions of cards with SR-IOV have one"
        return _obstacle(found, "devlink shows no eswitch mode of it", advice, waits=True)
    if not entry.vfs:
        return None
    netdev = _netdev(found, state)
    if netdev is None and wanted_settings(entry, 0, VirtualFunction(0)):
        advice = "load its driver, for InfiniBand also ib_ipoib"
        return _obstacle(found, "it has no interface through which virtual functions are set up", advice, waits=True)
    if entry.driver is VfDriver.VFIO_PCI:
        return _vfio_refusal(found, state)
    return None


def _vfio_refusal(found: PciFunction, state: NodeState) -> Obstacle | None:
    if not state.is_loaded("vfio_pci"):
        return _obstacle(found, "module vfio_pci is not loaded", "add it to modules.named", waits=True)
    virtual = [state.pci[address] for address in found.vf_addresses if address in state.pci]
    alone = next((one for one in virtual if not one.iommu_group), None)
    if alone is not None:
        advice = "boot with intel_iommu=on (Intel) or with the IOMMU enabled in the firmware set-up"
        return _obstacle(found, f"virtual function {alone.address} is in no IOMMU group", advice)
    return None


def clash(found: PciFunction, entries: tuple[SriovEntry, ...]) -> Obstacle:
    """Two entries for one physical function."""
    names = " and ".join(f"`{entry.match}`" for entry in entries)
    return _obstacle(found, f"{names} both match it", "narrow one of the two")


def unmatched(entry: SriovEntry, state: NodeState) -> Obstacle:
    """An entry without a physical function."""
    advice = what_there_is(entry.match, state)
    return Obstacle(f"sriov/{entry.match}", pci(entry.match), "no physical function matches", advice)


def _unit(found: PciFunction) -> str:
    return f"sriov/{found.address}"


def _obstacle(found: PciFunction, problem: str, advice: str, waits: bool = False) -> Obstacle:
    return Obstacle(_unit(found), pci(found.address), problem, advice, waits)
