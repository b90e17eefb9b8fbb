"""What a run of real RDMA traffic through one port showed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """Where traffic goes in and out; `gid_index` None on InfiniBand ports, which go by LID."""

    device: str
    port: int
    gid_index: int | None = None
    traffic_class: int = 0


@dataclass(frozen=True)
class Effort:
    """How much traffic: `round_trips` small messages to and fro, then `writes` of `write_bytes` each."""

    round_trips: int = 1000
    writes: int = 256
    write_bytes: int = 1 << 20
    deadline_seconds: float = 20.0


@dataclass(frozen=True)
class VerbsResult:
    """`gid` is the entry as libibverbs reads it; times are for half a round trip, one way through the NIC and back."""

    gid: str
    active_mtu_bytes: int
    max_mtu_bytes: int
    round_trips: int
    latency_median_us: float
    latency_worst_us: float
    bandwidth_bps: float


@dataclass(frozen=True)
class PeerResult:
    """What traffic between two nodes showed: GIDs and MTUs of both ends, times for half a round trip."""

    peer: str
    gid: str
    peer_gid: str
    mtu_bytes: int
    own_mtu_bytes: int
    peer_mtu_bytes: int
    round_trips: int
    latency_median_us: float
    latency_worst_us: float
    bandwidth_bps: float
