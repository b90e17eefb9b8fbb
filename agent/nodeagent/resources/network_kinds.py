"""Pools of devices that are no network functions: accelerators, and parts of a function (sub-functions); pure.

Sources: k8snetworkplumbingwg/sriov-network-device-plugin pkg/accelerator and pkg/auxnetdevice (which devices count, by
which name), README.md (selectors).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nodeagent.resources.guarded import CONTROL
from nodeagent.resources.network_units import (
    DEFAULT_ROUTE,
    NetworkUnit,
    Seen,
    among,
    is_described,
    judged,
    link_type,
    own_problem,
    rdma_nodes,
    seen,
    user_nodes,
)
from nodeagent.spec.network_plugins import FunctionPool, Parent, Selector
from nodeagent.state.functions import AuxiliaryDevice
from nodeagent.state.health import Health
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState


def accelerators_of(pool: FunctionPool, state: NodeState) -> tuple[NetworkUnit, ...]:
    """Processing accelerators by address; one that is divided is offered by its virtual functions alone."""
    found = (one for _, one in sorted(state.functions.accelerators.items()) if not one.vf_addresses)
    units = (
        _accelerator(one, pool, state) for one in found if any(_is_meant(wish, one, state) for wish in pool.selectors)
    )
    return tuple(replace(unit, problem=own_problem(unit)) for unit in units)


def _is_meant(selector: Selector, one: PciFunction, state: NodeState) -> bool:
    return is_described(selector, one, state) and among(one.address, selector.addresses)


def _accelerator(one: PciFunction, pool: FunctionPool, state: NodeState) -> NetworkUnit:
    return NetworkUnit(
        address=one.address,
        port=one.address,
        driver=one.driver,
        numa_nodes=(one.numa_node,) if one.numa_node >= 0 and pool.with_topology else (),
        nodes=user_nodes(one, state),
    )


def parts_of(
    pool: FunctionPool, state: NodeState, health: Health, before: Iterable[NetworkUnit]
) -> tuple[NetworkUnit, ...]:
    """Auxiliary devices by name. One from before stays while it is there with the same driver, as a function does."""
    there, known = seen(state), {unit.address: unit for unit in before}
    found = []
    for name, one in sorted(state.functions.auxiliary.items(), key=lambda pair: (len(pair[0]), pair[0])):
        parent = state.pci.get(one.parent)
        if parent is None or _is_the_hosts(one, state):
            continue
        wanted = [selector for selector in pool.selectors if _fixed(selector, one, parent, state, there)]
        if any(_live(selector, one, parent, there) for selector in wanted):
            found.append(_part(one, parent, pool, state))
        elif wanted and name in known and known[name].driver == one.driver:
            found.append(replace(known[name], problem=""))
    return tuple(judged(unit, state, there, health) for unit in found)


def _is_the_hosts(one: AuxiliaryDevice, state: NodeState) -> bool:
    netdev = state.netdevs.get(one.netdev)
    return netdev is not None and (DEFAULT_ROUTE in netdev.uses or CONTROL in netdev.uses)


def _fixed(selector: Selector, one: AuxiliaryDevice, parent: PciFunction, state: NodeState, there: Seen) -> bool:
    return (
        is_described(selector, parent, state)
        and among(one.kind, selector.kinds)
        and (not selector.parents or any(_is_of(there.addresses.get(p.name, ""), p, one) for p in selector.parents))
        and (not selector.roots or any(_is_of(p.name, p, one) for p in selector.roots))
    )


def _is_of(address: str, wanted: Parent, one: AuxiliaryDevice) -> bool:
    """The numbers of a selector are those that the administrator gave the sub-functions."""
    return one.parent == address and (wanted.indices is None or one.number in wanted.indices)


def _live(selector: Selector, one: AuxiliaryDevice, parent: PciFunction, there: Seen) -> bool:
    return among(link_type(parent, there), selector.link_types) and (not selector.is_rdma or one.rdma != "")


def _part(one: AuxiliaryDevice, parent: PciFunction, pool: FunctionPool, state: NodeState) -> NetworkUnit:
    rdma = one.rdma if any(selector.is_rdma for selector in pool.selectors) else ""
    return NetworkUnit(
        address=one.name,
        port=one.parent,
        driver=one.driver,
        numa_nodes=(parent.numa_node,) if parent.numa_node >= 0 and pool.with_topology else (),
        rdma=rdma,
        nodes=rdma_nodes(rdma, state) if rdma else (),
    )
