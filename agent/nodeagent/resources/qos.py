"""Section `links[].qos`: trust, flow control and bandwidth shares of interfaces, by DCB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.link_selection import select_netdevs
from nodeagent.resources.qos_steps import QosStep, SetBuffers, SetDcbxMode, SetDscpMap, SetEts, SetMaxRate, SetPfc
from nodeagent.spec.qos import Buffers, DcbxOwner, Ets, Qos, expanded
from nodeagent.spec.schema import NodeSpec, Policy
from nodeagent.state.network import DEFAULT_ROUTE, Netdev
from nodeagent.state.node import NodeState
from nodeagent.state.qos import PRIORITIES, Algorithm, DcbState, PortBuffer, Trust
from nodeagent.state.things import Kind, Thing, netdev

WANTED = "the node file wants it so"
DCBX_HOST, DCBX_IEEE = 0x01, 0x08  # DCB_CAP_DCBX_HOST, DCB_CAP_DCBX_VER_IEEE
# DCBX first, or firmware may overrule what follows; flow control before the link is used (roce.md 1, step 7).
NAMES: Mapping[type[QosStep], str] = {
    SetDcbxMode: "a dcbx mode",
    SetPfc: "priority flow control",
    SetBuffers: "buffers",
    SetEts: "ets",
    SetDscpMap: "a dscp table",
    SetMaxRate: "a max rate",
}


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every interface that an entry with `qos` matches; who matches nothing is told by section `links`."""
    steps: list[Step] = []
    obstacles: list[Obstacle] = []
    by_name = _wishes_by_name(spec, state)
    for name, wishes in by_name.items():
        found, wish = state.netdevs[name], merge(wishes)
        problem = clash(name) if wish is None else refusal(found, wish, spec.disruption.nic)
        if problem is not None:
            obstacles.append(problem)
        elif wish is not None:
            steps += qos_steps(found, wish)
    return Wish(tuple(steps), tuple(obstacles))


def _wishes_by_name(spec: NodeSpec, state: NodeState) -> Mapping[str, tuple[Qos, ...]]:
    found: dict[str, tuple[Qos, ...]] = {}
    for entry in spec.links:
        for name in select_netdevs(entry.match, state) if entry.qos else ():
            found[name] = (*found.get(name, ()), expanded(entry.qos)) if entry.qos else ()
    return dict(sorted(found.items()))


def merge(wishes: Iterable[Qos]) -> Qos | None:
    """One wish from all entries that match an interface, None if they contradict each other."""
    merged = Qos()
    for wish in wishes:
        for entry in fields(Qos):
            value, before = getattr(wish, entry.name), getattr(merged, entry.name)
            if value is None or value == before:
                continue
            if before is not None:
                return None
            merged = replace(merged, **{entry.name: value})
    return merged


def qos_steps(found: Netdev, wish: Qos) -> Iterator[Step]:
    """Only what differs; one message for one attribute, so that a failure names it."""
    dcb = found.dcb or DcbState()
    for kind, wanted in _wanted(wish, dcb).items():
        before = kind.observed(dcb)
        if before is not None and before != wanted:
            values: dict[str, Any] = {"wanted": wanted, "before": before}
            if kind is SetPfc and found.up:
                values["disturbed"] = found.uses
            yield kind(subject=netdev(found.name), unit=_unit(found.name), reason=WANTED, **values)


def _wanted(wish: Qos, dcb: DcbState) -> Mapping[type[QosStep], tuple[Any, ...]]:
    """What the wish comes to for each attribute it has a say in, in the order in which they are written."""
    wanted: dict[type[QosStep], tuple[Any, ...]] = {}
    if wish.dcbx is not None:
        wanted[SetDcbxMode] = (_dcbx(wish.dcbx, dcb),)
    if wish.pfc is not None:
        wanted[SetPfc] = tuple(sorted(set(wish.pfc)))
    if wish.buffers is not None:
        wanted[SetBuffers] = _buffer_tables(wish.buffers, dcb)
    if wish.ets is not None:
        wanted[SetEts] = ets_tables(wish.ets)
    if wish.trust is Trust.PCP:
        wanted[SetDscpMap] = ()
    elif wish.dscp is not None:
        wanted[SetDscpMap] = tuple(sorted((int(dscp), priority) for dscp, priority in wish.dscp.items()))
    if wish.max_rate_mbps is not None:
        wanted[SetMaxRate] = tuple(rate * 1000 for rate in wish.max_rate_mbps)
    return wanted


def _buffer_tables(buffers: Buffers, dcb: DcbState) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The kernel takes both tables together: what the file leaves out stays as it is."""
    present = dcb.buffer or PortBuffer((0,) * PRIORITIES, (0,) * PRIORITIES)
    used = present.buffer_of if buffers.of_priority is None else buffers.of_priority
    return used, present.sizes_bytes if buffers.bytes is None else buffers.bytes


def _dcbx(owner: DcbxOwner, dcb: DcbState) -> int:
    """mlx5 takes HOST with a version, and 0 to hand control back; then it shows other bits, all without HOST."""
    present = dcb.dcbx or 0
    if (owner is DcbxOwner.HOST) == bool(present & DCBX_HOST):
        return present
    return DCBX_HOST | DCBX_IEEE if owner is DcbxOwner.HOST else 0


def ets_tables(ets: Ets) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(bandwidth, algorithm by traffic class, class by priority) as the kernel keeps them."""
    algorithms = (Algorithm.STRICT if number in ets.strict else Algorithm.ETS for number in range(len(ets.bandwidth)))
    return ets.bandwidth, tuple(map(int, algorithms)), ets.classes


def refusal(found: Netdev, wish: Qos, policy: Policy) -> Obstacle | None:
    """Why a wish cannot become steps: no DCB, an attribute the driver lacks, a restart of the default route's link."""
    wanted = _wanted(wish, found.dcb or DcbState())
    if not wanted:
        return None
    if found.dcb is None:
        advice = "mlx5 offers it on physical functions; remove qos for this interface, or match it more narrowly"
        return _obstacle(found.name, f"its driver {found.driver} offers no dcb".replace("  ", " "), advice)
    missing = [NAMES[kind] for kind in wanted if kind.observed(found.dcb) is None]
    if missing:
        advice = "another driver version may; remove that part of qos"
        return _obstacle(found.name, f"its driver {found.driver} does not offer {' nor '.join(missing)}", advice)
    if SetBuffers in wanted and found.dcb.buffer is not None:
        needed, there = sum(wanted[SetBuffers][1]), found.dcb.buffer.total_bytes
        if needed > there:
            return _obstacle(found.name, f"buffers need {needed} bytes, its port has {there}", "make them smaller")
    pfc = wanted.get(SetPfc)
    restarts = pfc is not None and pfc != SetPfc.observed(found.dcb) and found.up
    if restarts and DEFAULT_ROUTE in found.uses and policy is not Policy.ALLOW:
        problem = "a change of pfc restarts its link, and it has the default route"
        return _obstacle(found.name, problem, "set disruption.nic to allow if that is meant")
    return None


def clash(name: str) -> Obstacle:
    """Two entries that want different QoS of one interface."""
    advice = "narrow one of them so that the interface gets one wish"
    return _obstacle(name, "entries contradict each other about qos", advice)


def _unit(name: str) -> str:
    return f"qos/{name}"


def _obstacle(name: str, problem: str, advice: str) -> Obstacle:
    return Obstacle(_unit(name), Thing(Kind.NETDEV, name), problem, advice)
