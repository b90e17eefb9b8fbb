"""The part of `validate rdma` that goes to another node: options, the TCP connection beside it, and what is shown."""

from __future__ import annotations

import argparse

from nodeagent import __version__
from nodeagent.cli.output import columns, emit, warn
from nodeagent.cli.quantities import some_seconds
from nodeagent.errors import HostError, UsageError
from nodeagent.host import rdma_peer
from nodeagent.host.verbs import Verbs
from nodeagent.host.verbs_lane import open_lane
from nodeagent.state.gids import Gid
from nodeagent.state.verbs import Effort, Endpoint, PeerResult

PORT = 18516
PATIENCE_SECONDS = 300.0


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("to another node")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--listen",
        nargs="?",
        const="",
        metavar="ADDRESS:PORT",
        help=f"wait for one peer on this address (default: every one, TCP port {PORT})",
    )
    which.add_argument("--connect", default="", metavar="HOST[:PORT]", help="send to the peer that listens there")
    group.add_argument(
        "--patience",
        type=some_seconds,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long to listen (%(default)g)",
    )


def run(arguments: argparse.Namespace, endpoint: Endpoint, gid: Gid | None, effort: Effort) -> int:
    """Exit 0 when traffic went both ways with the right bytes. HostError says what failed, here or there."""
    host, port = address_of(arguments.connect or arguments.listen)
    if arguments.connect and not host:
        raise UsageError(f"connect to {arguments.connect}: expected HOST or HOST:PORT")
    verbs = Verbs()
    seconds = effort.deadline_seconds
    if arguments.connect:
        wire = rdma_peer.connect(host, port, seconds)
    else:
        warn(f"waiting for a peer on {host or 'every address'}, TCP port {port}")
        wire = rdma_peer.accept(host, port, arguments.patience, seconds)
    try:
        rdma_peer.greet(wire, __version__)
        with open_lane(verbs, endpoint, gid.kind if gid is not None else "") as lane:
            result = rdma_peer.lead(wire, lane, effort) if arguments.connect else rdma_peer.follow(wire, lane)
    except HostError as error:
        wire.fail(error)
        raise
    finally:
        wire.close()
    _show(arguments, endpoint, result)
    return 0


def address_of(text: str) -> tuple[str, int]:
    """`host`, `host:1234`, `:1234`, `[fe80::1]:1234` -> (host, port). UsageError for anything else."""
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or text.endswith("]"):
        host, number = text, ""
    if number and not (number.isdecimal() and 0 < int(number) < 65536):
        raise UsageError(f"read {text}: {number} is no TCP port; expected HOST:PORT, 1 to 65535")
    return host.strip("[]"), int(number or PORT)


def _show(arguments: argparse.Namespace, endpoint: Endpoint, result: PeerResult) -> None:
    document = {
        "device": endpoint.device,
        "port": endpoint.port,
        "peer": result.peer,
        "gid": result.gid,
        "gidIndex": endpoint.gid_index,
        "peerGid": result.peer_gid,
        "pathMtuBytes": result.mtu_bytes,
        "roundTrips": result.round_trips,
        "latencyMedianMicroseconds": round(result.latency_median_us, 2),
        "latencyWorstMicroseconds": round(result.latency_worst_us, 2),
        "bandwidthBitsPerSecond": round(result.bandwidth_bps),
        "doubts": list(doubts(result)),
    }
    emit(document, arguments.output, lambda: _text(endpoint, result))


def doubts(result: PeerResult) -> tuple[str, ...]:
    """What is not as it should be although the traffic went through."""
    if result.own_mtu_bytes == result.peer_mtu_bytes:
        return ()
    mine, there = result.own_mtu_bytes, result.peer_mtu_bytes
    return (f"the path MTU is {mine} here and {there} there; the smaller is used, set the same mtu on both links",)


def _text(endpoint: Endpoint, result: PeerResult) -> str:
    latency = f"{result.latency_median_us:.2f} us ({result.latency_worst_us:.2f} us)"
    row = [
        f"{endpoint.device} port {endpoint.port}",
        result.peer,
        result.peer_gid,
        str(result.mtu_bytes),
        latency,
        f"{result.bandwidth_bps / 1e9:.2f} Gb/s",
        "ok",
    ]
    header = ("PORT", "PEER", "ITS GID", "PATH MTU", "LATENCY (WORST)", "BANDWIDTH", "")
    return "\n".join([columns([row], header), *doubts(result)])
