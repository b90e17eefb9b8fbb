"""The observed node as a plain document: what `show` prints and the control socket serves as /v1/state."""

from __future__ import annotations

from typing import Any

from nodeagent.plan.document import SCHEMA_VERSION
from nodeagent.plan.graph import Graph, build_graph
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.state.gpu import Gpu, GpuInstance
from nodeagent.state.modules import KernelModule
from nodeagent.state.network import Netdev, RdmaDevice
from nodeagent.state.node import NodeState
from nodeagent.state.things import gpu, module


def state_document(state: NodeState, own_pids: tuple[int, ...] = ()) -> dict[str, Any]:
    """Driver, GPUs with their MIG layout and holders, loaded modules, interfaces, RDMA devices, what is unknown.

    `own_pids` are NVML workers of a running agent (see `Terms`).
    """
    graph = build_graph(state, KNOWN_SERVICES, own_pids)
    return {
        "schemaVersion": SCHEMA_VERSION,
        "kernel": {"release": state.kernel.release, "lockdown": state.kernel.lockdown},
        "driver": _driver(state),
        "gpus": [_gpu(found, graph) for found in sorted(state.gpus.values(), key=lambda one: one.index)],
        "modules": [_module(found, state, graph) for found in sorted(state.modules.values(), key=lambda one: one.name)],
        "links": [_link(found) for found in sorted(state.netdevs.values(), key=lambda one: one.name)],
        "rdma": [_rdma(found) for found in sorted(state.rdma.values(), key=lambda one: one.name)],
        "unknown": [{"what": item.what, "reason": item.reason} for item in state.unknown],
    }


def _driver(state: NodeState) -> dict[str, Any] | None:
    if state.driver is None:
        return None
    return {"version": state.driver.version, "flavor": "open" if state.driver.is_open else "proprietary"}


def _gpu(found: Gpu, graph: Graph) -> dict[str, Any]:
    return {
        "index": found.index,
        "uuid": found.uuid,
        "pciAddress": found.pci_address,
        "product": found.product,
        "serial": found.serial or None,
        "memoryTotalBytes": found.memory_total_bytes,
        "migMode": found.mig_mode.value,
        "pendingMigMode": found.pending_mig_mode.value,
        "instances": [_instance(instance) for instance in sorted(found.instances, key=lambda one: one.placement)],
        "holders": sorted({graph.name(hold.holder) for hold in graph.holders.get(gpu(found.uuid), ())}),
    }


def _instance(instance: GpuInstance) -> dict[str, Any]:
    return {
        "profile": instance.profile,
        "start": instance.placement.start,
        "size": instance.placement.size,
        "devices": [one.uuid for one in instance.compute_instances],
        "pids": list(instance.pids),
    }


def _module(found: KernelModule, state: NodeState, graph: Graph) -> dict[str, Any]:
    file = state.module_files.get(found.name)
    outdated = bool(file and file.srcversion and found.srcversion and file.srcversion != found.srcversion)
    return {
        "name": found.name,
        "state": found.liveness.value,
        "references": found.refcount,
        "version": found.version,
        "srcversion": found.srcversion,
        "reloadPending": outdated,
        "holders": _module_holders(found.name, graph),
    }


def _module_holders(name: str, graph: Graph) -> list[str]:
    """Each once, however many of its files hold on."""
    names = (graph.name(hold.holder) for hold in graph.holders.get(module(name), ()) if hold.refuses)
    return list(dict.fromkeys(names))


def _link(found: Netdev) -> dict[str, Any]:
    return {
        "name": found.name,
        "up": found.up,
        "carrier": found.carrier,
        "mtu": found.mtu,
        "driver": found.driver,
        "pciAddress": found.pci_address,
        "uses": list(found.uses),
    }


def _rdma(found: RdmaDevice) -> dict[str, Any]:
    return {
        "name": found.name,
        "nodeGuid": found.node_guid,
        "pciAddress": found.pci_address,
        "firmware": found.firmware,
        "ports": [
            {
                "port": port.port,
                "state": port.state,
                "linkLayer": port.link_layer,
                "netdev": port.netdev,
                "rate": port.rate,
            }
            for port in found.ports
        ],
    }
