"""The proofs about RDMA ports: each active one carries traffic to itself and reaches memory of the GPU beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.ports import Files
from nodeagent.host.verbs import Verbs
from nodeagent.metrics.topology import rails
from nodeagent.resources.gid_selection import choose_gid
from nodeagent.state.gpu import MigMode
from nodeagent.state.network import RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.proofs import Finding, Outcome, Proof, Trial, Work
from nodeagent.state.verbs import Effort, Endpoint
from nodeagent.validation.facts import Facts
from nodeagent.validation.trials import Device, held

ACTIVE, ETHERNET = "ACTIVE", "Ethernet"
LITTLE = Effort(round_trips=100, writes=32)


def rdma(files: Files, state: NodeState, *, simulated: bool) -> Iterator[Finding]:
    """A port that is down is absent: whether it should be up is health's question."""
    ports = [(device.name, port) for device in state.rdma.values() for port in device.ports]
    if not ports:
        yield Finding(Proof.RDMA, "node", Outcome.ABSENT, "there is no rdma device")
        return
    if simulated:
        text = "the ports of a simulated node carry no traffic"
        yield Finding(Proof.RDMA, "node", Outcome.SKIPPED, text)
        return
    try:
        verbs = Verbs()
    except UnsupportedError as error:
        yield Finding(Proof.RDMA, "node", Outcome.SKIPPED, f"{error.reason}; {error.advice}")
        return
    for device, port in ports:
        subject = f"{device} port {port.port}"
        if port.state != ACTIVE:
            yield Finding(Proof.RDMA, subject, Outcome.ABSENT, f"the port is {port.state}")
        else:
            yield _prove(verbs, files, device, port)


def _prove(verbs: Verbs, files: Files, device: str, port: RdmaPort) -> Finding:
    subject = f"{device} port {port.port}"
    try:
        endpoint = endpoint_of(files, device, port)
        result = verbs.ping_pong(endpoint, LITTLE)
    except HostError as error:
        return Finding(Proof.RDMA, subject, Outcome.FAILED, f"{error.reason}; {error.advice}".rstrip("; "))
    figures = {
        "latency_median_seconds": result.latency_median_us / 1e6,
        "bits_per_second": result.bandwidth_bps,
        "path_mtu_bytes": float(result.active_mtu_bytes),
    }
    text = (
        f"{result.latency_median_us:.1f} us, {result.bandwidth_bps / 1e9:.1f} Gb/s, path MTU {result.active_mtu_bytes}"
    )
    return Finding(Proof.RDMA, subject, Outcome.PASSED, text, figures)


def endpoint_of(files: Files, device: str, port: RdmaPort) -> Endpoint:
    """With the GID that `nodeagent roce gids` chooses. HostError where there is none that would do."""
    traffic_class = port.traffic_class or port.roce_tos or 0
    if port.link_layer != ETHERNET:
        return Endpoint(device, port.port, None, traffic_class)
    choice = choose_gid(read_gids(files, device, port.port), port.netdev, None)
    if choice.gid is None:
        raise UnsupportedError("choose gid of", f"{device} port {port.port}", choice.reason)
    return Endpoint(device, port.port, choice.gid.index, traffic_class)


def gpudirect(files: Files, facts: Facts, *, simulated: bool, in_use: bool) -> Iterator[Trial | Finding]:
    """Each whole GPU that is free with the active ports nearest to it; the first port where none is near any."""
    ports = [(device.name, port) for device in facts.state.rdma.values() for port in device.ports]
    active = [(name, port) for name, port in ports if port.state == ACTIVE]
    whole = {str(gpu.index): gpu for gpu in facts.state.gpus.values() if gpu.mig_mode is not MigMode.ENABLED}
    if not active or not whole:
        what = "gpu that is not divided" if active else "active rdma port"
        yield Finding(Proof.GPUDIRECT, "node", Outcome.ABSENT, f"there is no {what}")
        return
    if simulated:
        text = "the ports of a simulated node carry no traffic"
        yield Finding(Proof.GPUDIRECT, "node", Outcome.SKIPPED, text)
        return
    near = [(whole[rail.gpu], *one) for one in active if (rail := rails(facts.state)[one[0]]).gpu in whole]
    for gpu, name, port in near or [(whole[min(whole, key=int)], *active[0])]:
        subject = f"{gpu.uuid} and {name} port {port.port}"
        if gpu.pids and not in_use:
            yield replace(held(Proof.GPUDIRECT, (Device(gpu.uuid, gpu.pids),), facts), subject=subject)
            continue
        try:
            end = endpoint_of(files, name, port)
        except HostError as error:
            yield Finding(Proof.GPUDIRECT, subject, Outcome.FAILED, error.reason)
        else:
            index = -1 if end.gid_index is None else end.gid_index
            yield Trial(Work.RDMA, (gpu.uuid,), name, port.port, index, end.traffic_class)
