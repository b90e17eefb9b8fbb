"""The proof that RDMA ports carry traffic: each active port to itself, with little of it."""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.ports import Files
from nodeagent.host.verbs import Verbs
from nodeagent.resources.gid_selection import choose_gid
from nodeagent.state.network import RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.proofs import Finding, Outcome, Proof
from nodeagent.state.verbs import Effort, Endpoint

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
