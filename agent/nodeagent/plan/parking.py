"""What goes away with a driver and comes back with it: interfaces, virtual functions, and all that is set on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.resources.base import Step
from nodeagent.resources.link_restore import KeepSetup, RestoreLink, RestoreRdmaName, kept_settings
from nodeagent.resources.qos_steps import QosStep, SetBuffers, SetDcbxMode, SetDscpMap, SetEts, SetMaxRate, SetPfc
from nodeagent.resources.sriov_steps import BindFunction, MakeVfs, SetVf
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, VfLinkState, VfSetting, VirtualFunction
from nodeagent.state.node import NodeState
from nodeagent.state.qos import Algorithm, DcbState
from nodeagent.state.things import Hold, Kind, Thing, module, pci

UNIT = "quiet"
WAS_SO = "was so before"
VFIO_PCI = "vfio-pci"
USUAL_MTU = 1500
NO_MAC = "00:00:00:00:00:00"
DCBX_HOST = 0x01
PARKED = (Kind.NETDEV, Kind.PCI, Kind.RDMA)
# The modules whose end takes a function's RDMA device away, by the function's driver; and the kernel's own names.
RDMA_MODULES = {"mlx5_core": "mlx5_ib", "mlx4_core": "mlx4_ib", "bnxt_en": "bnxt_re", "ice": "irdma", "i40e": "irdma"}
KERNEL_NAME = re.compile(r"(mlx[45]_|bnxt_re|irdma|efa_)\d+")
QOS_STEPS: tuple[type[QosStep], ...] = (SetDcbxMode, SetPfc, SetBuffers, SetEts, SetDscpMap, SetMaxRate)


def parked(holds: Iterable[Hold], lost: set[Thing], state: NodeState, reset: Iterable[Thing] = ()) -> tuple[Thing, ...]:
    """Interfaces and functions that stand on what goes away for a while, if there is anything to bring back.

    `reset` are those that lose what was set on them and stay.

    The last of them comes back first: interfaces of physical functions, then physical functions (their virtual ones are
    made through them), their RDMA devices, then virtual functions, then the interfaces and RDMA devices of those.
    """
    holds = tuple(holds)
    found = {hold.holder for hold in holds if hold.held in lost and hold.holder.kind in PARKED} | set(reset)
    # Virtual functions may have a driver of their own (igbvf, iavf), which stays while they go.
    found |= {hold.holder for hold in holds if hold.held in found and hold.holder.kind is Kind.NETDEV}
    found |= set(_named(lost, state))
    return tuple(sorted((thing for thing in found if _is_set_up(thing, state)), key=lambda one: _rank(one, state)))


def _named(lost: set[Thing], state: NodeState) -> Iterator[Thing]:
    """RDMA devices that go away and have a name that the kernel would not give them again."""
    for found in state.rdma.values():
        function = state.pci.get(found.pci_address)
        if function is None or KERNEL_NAME.fullmatch(found.name):
            continue
        drivers = (function.driver, RDMA_MODULES.get(function.driver, ""))
        if lost.intersection((pci(function.address), pci(function.physfn), *map(module, drivers))):
            yield Thing(Kind.RDMA, found.name)


def keep(thing: Thing) -> Step:
    return KeepSetup(subject=thing, unit=UNIT, reason="goes away with its driver")


def restores(thing: Thing, holds: Iterable[Hold], state: NodeState) -> tuple[Step, ...]:
    """The steps that bring back what was set on an interface or function, in order."""
    if thing.kind is Kind.NETDEV:
        needs = tuple(dict.fromkeys(hold.held for hold in holds if hold.holder == thing))
        return tuple(_restore_netdev(thing, needs, state))
    if thing.kind is Kind.RDMA:
        address = state.rdma[thing.name].pci_address
        return (RestoreRdmaName(subject=thing, unit=_unit(thing, state), reason=WAS_SO, pci_address=address),)
    return tuple(_restore_function(thing, state))


def _unit(thing: Thing, state: NodeState) -> str:
    """One for each card, and below it for each virtual function: what is brought back of different ones may be at once.

    Virtual functions of one IOMMU group go to their drivers together or not at all, so they are one.
    """
    address = _address(thing, state)
    found = state.pci.get(address)
    if found is None or not found.physfn:
        return f"{UNIT}/{address or thing.name}"
    others = (one for one in state.pci.values() if one.physfn == found.physfn and one.iommu_group)
    shared = found.iommu_group and sum(one.iommu_group == found.iommu_group for one in others) > 1
    return f"{UNIT}/{found.physfn}/{f'group {found.iommu_group}' if shared else address}"


def _address(thing: Thing, state: NodeState) -> str:
    """The PCI function of an interface, an RDMA device or a function; empty for an interface of software."""
    if thing.kind is Kind.PCI:
        return thing.name
    of_kind: Mapping[str, Netdev | RdmaDevice] = state.netdevs if thing.kind is Kind.NETDEV else state.rdma
    return of_kind[thing.name].pci_address if thing.name in of_kind else ""


def _restore_netdev(thing: Thing, needs: tuple[Thing, ...], state: NodeState) -> Iterator[Step]:
    found, unit = state.netdevs[thing.name], _unit(thing, state)
    yield RestoreLink(
        subject=thing,
        unit=unit,
        reason=WAS_SO,
        pci_address=found.pci_address,
        mtu=found.mtu,
        up=found.up,
        entries=state.link_setups.get(thing.name, ()),
        settings=kept_settings(found.settings),
        needs=needs,
    )
    for kind in QOS_STEPS if found.dcb is not None else ():
        value = kind.observed(found.dcb) if found.dcb is not None else None
        if value is not None and found.dcb is not None and _differs_after_load(kind, found.dcb):
            yield kind(subject=thing, unit=unit, reason=WAS_SO, wanted=value, before=())


def _differs_after_load(kind: type[QosStep], dcb: DcbState) -> bool:
    """Whether somebody set it: a driver starts with firmware's rules, without flow control, tables and limits."""
    if kind is SetDcbxMode:
        return bool((dcb.dcbx or 0) & DCBX_HOST)
    if kind is SetEts:
        return dcb.ets is not None and Algorithm.ETS in dcb.ets.algorithms
    if kind is SetBuffers:  # sizes alone are the driver's own doing
        return dcb.buffer is not None and any(dcb.buffer.buffer_of)
    value = kind.observed(dcb)
    return value is not None and any(value)


def _restore_function(thing: Thing, state: NodeState) -> Iterator[Step]:
    found, unit = state.pci[thing.name], _unit(thing, state)
    if found.vf_addresses:
        count = len(found.vf_addresses)
        yield MakeVfs(subject=thing, unit=unit, reason=WAS_SO, count=count, bind=False)
    parent = state.pci.get(found.physfn)
    if parent is None:
        return
    yield from _restore_settings(thing, found, parent, state)
    if found.driver:
        driver = found.driver if found.driver == VFIO_PCI else ""
        yield BindFunction(subject=thing, unit=unit, reason=WAS_SO, driver=driver, before="")


def _restore_settings(thing: Thing, found: PciFunction, parent: PciFunction, state: NodeState) -> Iterator[Step]:
    netdev = next((one for one in state.netdevs.values() if one.pci_address == parent.address), None)
    index = parent.vf_addresses.index(found.address) if found.address in parent.vf_addresses else -1
    kept, unit = _kept(netdev, index), _unit(thing, state)
    fresh = VirtualFunction(index, mac=NO_MAC, link_state=VfLinkState.AUTO)
    for setting in VfSetting if kept is not None and netdev is not None else ():
        value = kept.value(setting) if kept is not None else None
        before = fresh.value(setting) or ()
        switch = setting in (VfSetting.SPOOFCHK, VfSetting.TRUST)  # drivers differ in what they start with
        if netdev is not None and value is not None and (switch or value != before):
            yield SetVf(
                subject=thing,
                unit=unit,
                reason=WAS_SO,
                netdev=netdev.name,
                index=index,
                setting=setting,
                wanted=value,
                before=before,
            )


def _kept(netdev: Netdev | None, index: int) -> VirtualFunction | None:
    vfs = netdev.vfs if netdev is not None else ()
    return next((one for one in vfs if one.index == index), None)


def _is_set_up(thing: Thing, state: NodeState) -> bool:
    """Whether somebody did something to it that a driver does not do by itself."""
    if thing.kind is not Kind.NETDEV:
        return thing.name in (state.pci if thing.kind is Kind.PCI else state.rdma)
    found = state.netdevs.get(thing.name)
    if found is None:
        return False
    dcb = found.dcb
    has_qos = dcb is not None and any(_differs_after_load(kind, dcb) for kind in QOS_STEPS)
    has_vfs = found.pci_address in state.pci and bool(state.pci[found.pci_address].vf_addresses)
    return found.up or found.mtu != USUAL_MTU or has_qos or has_vfs or bool(state.link_setups.get(thing.name))


def _rank(thing: Thing, state: NodeState) -> tuple[int, str]:
    function = state.pci.get(_address(thing, state))
    is_vf = function is not None and function.is_vf
    of_vfs, of_cards = (Kind.RDMA, Kind.NETDEV, Kind.PCI), (Kind.RDMA, Kind.PCI, Kind.NETDEV)
    order = (*((kind, True) for kind in of_vfs), *((kind, False) for kind in of_cards))
    return order.index((thing.kind, is_vf)), thing.name
