"""The proof between two nodes: an ordinary TCP connection on which both sides agree, and RDMA traffic beside it.

One JSON object on a line for each message. Both say hello with the protocol's number before anything else, so that
another version is told apart from a broken connection. The side that connects decides how much traffic there is; the
side that listens answers what it gets. Whoever fails tells the other why before it closes.
"""

from __future__ import annotations

import json
import socket
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv6Address
from typing import Any, Protocol

from nodeagent.errors import DeadlineError, GoneError, HostError, UnsupportedError
from nodeagent.host.files import host_error
from nodeagent.state.verbs import Effort, PeerResult

PROTOCOL = 1
MOST_BYTES = 65536  # of one message
MOST_ROUNDS = 1_000_000
MOST_WRITE_BYTES = 1 << 20
GREETING = "nodeagent rdma proof"
CONNECT_SECONDS = 10.0
OPERATION = "prove rdma with"


@dataclass(frozen=True)
class LaneInfo:
    """What one side tells the other about its end: `kind` is the GID's type, empty on InfiniBand."""

    gid: str
    kind: str
    link_layer: str
    lid: int
    mtu_bytes: int
    queue_pair: int
    rkey: int
    address: int


class Lane(Protocol):
    """One end of a reliable connection with registered memory."""

    info: LaneInfo

    def connect(self, peer: LaneInfo, mtu_bytes: int) -> None:
        """Ready to send and to receive; the first message of the peer may come at once."""

    def ping(self, effort: Effort) -> list[float]:
        """Send messages, wait for each to come back, compare its bytes; seconds of each round trip."""

    def pong(self, effort: Effort) -> None:
        """Send back as many messages as they came."""

    def write(self, effort: Effort) -> float:
        """Write this side's memory into the peer's, again and again; bits per second."""

    def digest(self, size: int) -> str:
        """SHA-256 of the first bytes of the memory."""


class Wire:
    """The connection that both sides agree on. `name` is the peer in messages."""

    def __init__(self, connection: socket.socket, name: str, seconds: float) -> None:
        self.name = name
        self._connection = connection
        self._connection.settimeout(seconds)
        self._lines = connection.makefile("rb")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def send(self, **message: Any) -> None:
        with self._errors():
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, *keys: str) -> dict[str, Any]:
        """The next message, which has these keys. HostError where the peer failed, closed, or says something else."""
        with self._errors():
            line = self._lines.readline(MOST_BYTES)
        if not line:
            raise GoneError(OPERATION, self.name, "it closed the connection", "its own output says why")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise HostError(OPERATION, self.name, "it answers in another language", "is that nodeagent's port")
        if "problem" in message:
            raise HostError(OPERATION, self.name, f"it failed: {message['problem']}")
        missing = [key for key in keys if key not in message]
        if missing:
            raise HostError(
                OPERATION, self.name, f"its message has no {missing[0]}", "install the same version on both"
            )
        return message

    def fail(self, error: HostError) -> None:
        """Tell the peer, if it still listens."""
        with suppress(HostError):
            self.send(problem=str(error))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DeadlineError(OPERATION, self.name, "no answer in time", "its own output says why") from error
        except OSError as error:
            raise host_error(OPERATION, self.name, error) from error


def connect(host: str, port: int, seconds: float) -> Wire:
    """A wire to a listening peer. GoneError or HostError where there is none."""
    name = f"{host} port {port}"
    try:
        return Wire(socket.create_connection((host, port), CONNECT_SECONDS), name, seconds)
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        advice = "start nodeagent validate rdma --listen there first, and let the port through the firewall"
        raise GoneError("connect to", name, reason, advice) from error


def accept(address: str, port: int, patience_seconds: float, seconds: float) -> Wire:
    """Wait for one peer. DeadlineError if none comes, HostError where the port cannot be had."""
    name = f"{address or '*'} port {port}"
    try:
        with socket.create_server((address, port), reuse_port=False) as server:
            server.settimeout(patience_seconds)
            connection, peer = server.accept()
    except TimeoutError as error:
        raise DeadlineError("wait for a peer on", name, f"none came in {patience_seconds:g} s") from error
    except OSError as error:
        raise host_error("listen on", name, error) from error
    return Wire(connection, str(peer[0]), seconds)


def greet(wire: Wire, version: str) -> str:
    """Exchange greetings; the peer's version. UnsupportedError where it speaks another protocol."""
    wire.send(greeting=GREETING, protocol=PROTOCOL, version=version)
    hello = wire.receive()
    if hello.get("greeting") != GREETING:
        raise HostError(OPERATION, wire.name, "it answers in another language", "is that nodeagent's port")
    if hello.get("protocol") != PROTOCOL:
        reason = f"it is version {hello.get('version')} and speaks protocol {hello.get('protocol')}, this is {PROTOCOL}"
        raise UnsupportedError(OPERATION, wire.name, reason, "install the same version on both")
    return str(hello.get("version"))


def lead(wire: Wire, lane: Lane, effort: Effort) -> PeerResult:
    """The connecting side: sends, measures, and checks that the peer has what was written."""
    wire.send(lane=asdict(lane.info), effort=asdict(effort))
    peer = _lane_info(wire, wire.receive("lane")["lane"])
    mtu = agreed_mtu(wire.name, lane.info, peer)
    lane.connect(peer, mtu)
    _both_ready(wire)
    times = lane.ping(effort)
    bandwidth = lane.write(effort)
    wire.send(written=True)
    there = wire.receive("digest")["digest"]
    if there != lane.digest(effort.write_bytes):
        raise HostError(OPERATION, wire.name, "its memory has other bytes than were written into it")
    halves = [seconds * 1e6 / 2 for seconds in times]
    result = PeerResult(
        peer=wire.name,
        gid=lane.info.gid,
        peer_gid=peer.gid,
        mtu_bytes=mtu,
        own_mtu_bytes=lane.info.mtu_bytes,
        peer_mtu_bytes=peer.mtu_bytes,
        round_trips=len(times),
        latency_median_us=statistics.median(halves),
        latency_worst_us=max(halves),
        bandwidth_bps=bandwidth,
    )
    wire.send(result=asdict(result))
    return result


def follow(wire: Wire, lane: Lane) -> PeerResult:
    """The listening side: answers, and in the end has the peer's figures, with the two ends changed over."""
    message = wire.receive("lane", "effort")
    peer = _lane_info(wire, message["lane"])
    effort = checked_effort(wire.name, message["effort"])
    wire.send(lane=asdict(lane.info))
    lane.connect(peer, agreed_mtu(wire.name, lane.info, peer))
    _both_ready(wire)
    lane.pong(effort)
    wire.receive("written")
    wire.send(digest=lane.digest(effort.write_bytes))
    figures = wire.receive("result")["result"]
    try:
        found = PeerResult(**(figures if isinstance(figures, dict) else {}))
    except TypeError as error:
        raise HostError(OPERATION, wire.name, "its result is not one", "install the same version on both") from error
    return PeerResult(
        **{
            **asdict(found),
            "peer": wire.name,
            "gid": found.peer_gid,
            "peer_gid": found.gid,
            "own_mtu_bytes": found.peer_mtu_bytes,
            "peer_mtu_bytes": found.own_mtu_bytes,
        }
    )


def agreed_mtu(name: str, mine: LaneInfo, peer: LaneInfo) -> int:
    """The smaller path MTU. UnsupportedError where the two ends cannot be connected, with what differs."""
    for what, here, there in (
        ("link layer", mine.link_layer, peer.link_layer),
        ("RoCE version", mine.kind, peer.kind),
        ("address family", _family(mine.gid), _family(peer.gid)),
    ):
        if here != there:
            advice = "choose ports alike with --match, and addresses alike with --family"
            raise UnsupportedError(OPERATION, name, f"the {what} is {here} here and {there} there", advice)
    return min(mine.mtu_bytes, peer.mtu_bytes)


def _family(gid: str) -> str:
    return "IPv4" if IPv6Address(gid).ipv4_mapped else "IPv6"


def checked_effort(name: str, wanted: Any) -> Effort:
    """What the peer asks for, within limits: it is not to keep this side busy for ever."""
    values = wanted if isinstance(wanted, dict) else {}
    whole = {key: values.get(key) for key in ("round_trips", "writes", "write_bytes")}
    limits = {"round_trips": MOST_ROUNDS, "writes": MOST_ROUNDS, "write_bytes": MOST_WRITE_BYTES}
    for key, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limits[key]:
            reason = f"it asks for {key} {value}"
            raise HostError(OPERATION, name, reason, f"1 to {limits[key]} are possible")
    return Effort(**{key: value for key, value in whole.items() if isinstance(value, int)})


def _both_ready(wire: Wire) -> None:
    """Neither sends before the other can receive."""
    wire.send(ready=True)
    wire.receive("ready")


def _lane_info(wire: Wire, found: Any) -> LaneInfo:
    """The peer's end as it tells it. HostError where a value is missing or of another kind."""
    problem = "its end of the connection is not described as expected"
    kinds = {"str": str, "int": int}
    values = found if isinstance(found, dict) else {}
    wanted: dict[str, Any] = {entry.name: values.get(entry.name) for entry in fields(LaneInfo)}
    if not all(type(wanted[entry.name]) is kinds[str(entry.type)] for entry in fields(LaneInfo)):
        raise HostError(OPERATION, wire.name, problem, "install the same version on both")
    info = LaneInfo(**wanted)
    try:
        IPv6Address(info.gid)
    except ValueError as error:
        raise HostError(OPERATION, wire.name, f"{info.gid} is no GID", "install the same version on both") from error
    return info
