"""What two nodes say to each other before and after RDMA traffic, over real sockets; and what they refuse."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from nodeagent.cli.validate_peer import address_of, doubts
from nodeagent.errors import DeadlineError, GoneError, HostError, UnsupportedError, UsageError
from nodeagent.host import rdma_peer
from nodeagent.host.rdma_peer import LaneInfo, Wire, accept, agreed_mtu, checked_effort, connect, follow, greet, lead
from nodeagent.state.gids import ROCE_V1
from nodeagent.state.verbs import Effort, PeerResult
from rdma_lane import INFO, SocketLane

FEW = Effort(round_trips=5, writes=1, write_bytes=4096, deadline_seconds=10)


def both(one: Callable[[Wire], Any], other: Callable[[Wire], Any]) -> tuple[Any, Any]:
    """What two sides come to, each a value or the error it raised; whoever fails tells the other."""

    def run(side: Callable[[Wire], Any], wire: Wire) -> Any:
        try:
            return side(wire)
        except HostError as error:
            wire.fail(error)
            return error
        finally:
            wire.close()

    here, there = socket.socketpair()
    with ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(run, one, Wire(here, "there", 10)),
            pool.submit(run, other, Wire(there, "here", 10)),
        ]
        return found[0].result(), found[1].result()


def lanes(mine: LaneInfo = INFO, peer: LaneInfo = INFO, *, spoilt: bool = False) -> tuple[SocketLane, SocketLane]:
    here, there = socket.socketpair()
    return SocketLane(here, mine, spoilt=spoilt), SocketLane(there, peer)


def shut(*ends: SocketLane) -> None:
    for end in ends:
        end.pipe.close()


def test_both_sides_see_the_same_figures_from_their_own_end() -> None:
    mine, peer = lanes(peer=replace(INFO, gid="::ffff:10.0.0.2", mtu_bytes=1024))
    led, followed = both(lambda wire: lead(wire, mine, FEW), lambda wire: follow(wire, peer))
    shut(mine, peer)
    assert (led.gid, led.peer_gid, led.mtu_bytes, led.round_trips) == ("::ffff:10.0.0.1", "::ffff:10.0.0.2", 1024, 5)
    assert (led.latency_median_us, led.bandwidth_bps) == (1.0, 1e9)
    assert (followed.gid, followed.peer_gid, followed.own_mtu_bytes) == ("::ffff:10.0.0.2", "::ffff:10.0.0.1", 1024)
    assert (mine.mtu, peer.mtu) == (1024, 1024)
    assert (mine.peer, peer.peer) == (peer.info, mine.info)
    assert doubts(led) == (
        "the path MTU is 4096 here and 1024 there; the smaller is used, set the same mtu on both links",
    )
    assert doubts(replace(led, peer_mtu_bytes=4096)) == ()


def test_bytes_that_change_on_the_way_are_found_and_both_are_told() -> None:
    mine, peer = lanes(spoilt=True)
    led, followed = both(lambda wire: lead(wire, mine, FEW), lambda wire: follow(wire, peer))
    shut(mine, peer)
    assert str(led) == "prove rdma with there: its memory has other bytes than were written into it"
    assert str(followed) == f"prove rdma with here: it failed: {led}"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(INFO, gid="2001:db8::1"), "the address family is IPv4 here and IPv6 there"),
        (replace(INFO, kind=ROCE_V1), "the RoCE version is RoCE v2 here and IB/RoCE v1 there"),
        (replace(INFO, link_layer="InfiniBand"), "the link layer is Ethernet here and InfiniBand there"),
    ],
)
def test_ends_that_do_not_fit_are_refused_with_what_differs(other: LaneInfo, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        agreed_mtu("peer", INFO, other)


def test_another_version_is_told_apart_from_another_program() -> None:
    ours = both(lambda wire: greet(wire, "1.0"), lambda wire: greet(wire, "2.0"))
    assert ours == ("2.0", "1.0")

    def newer(wire: Wire) -> None:
        wire.receive()
        wire.send(greeting=rdma_peer.GREETING, protocol=2, version="9.9")

    error, _ = both(lambda wire: greet(wire, "1.0"), newer)
    assert isinstance(error, UnsupportedError)
    assert str(error) == (
        "prove rdma with there: it is version 9.9 and speaks protocol 2, this is 1; install the same version on both"
    )
    error, _ = both(lambda wire: greet(wire, "1.0"), lambda wire: wire.send(hello=1))
    assert "it answers in another language; is that nodeagent's port" in str(error)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\n", b"[1]\n", b"7\n", b"\xff\xfe\n", b"x" * 70000])
def test_another_program_at_that_port_is_an_error_in_words(answer: bytes) -> None:
    here, there = socket.socketpair()
    there.sendall(answer[:65536])
    there.close()
    wire = Wire(here, "there", 5)
    with pytest.raises(HostError, match="it answers in another language"):
        wire.receive("lane")
    wire.close()


def test_a_peer_that_goes_or_says_nothing_is_an_error_in_words() -> None:
    here, there = socket.socketpair()
    wire = Wire(here, "there", 0.05)
    with pytest.raises(DeadlineError, match="no answer in time; its own output says why"):
        wire.receive()
    there.close()
    fresh, gone = socket.socketpair()
    gone.close()
    wire.close()
    wire = Wire(fresh, "there", 5)
    with pytest.raises(GoneError, match="it closed the connection"):
        wire.receive()
    wire.close()


def test_nobody_listens_and_nobody_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostError, match=f"listen on 127.0.0.1 port {port}: address already in use"):
            accept("127.0.0.1", port, 5, 5)
    with pytest.raises(GoneError, match="connection refused; start nodeagent validate rdma --listen there first"):
        connect("127.0.0.1", port, 5)
    with pytest.raises(DeadlineError, match=r"none came in 0\.05 s"):
        accept("127.0.0.1", port, 0.05, 5)


def test_a_peer_cannot_ask_for_work_without_end() -> None:
    good = asdict(FEW)
    assert checked_effort("peer", good).round_trips == 5
    for wrong in ({"round_trips": 10**9}, {"writes": 0}, {"write_bytes": 1 << 30}, {"writes": "1"}, {"writes": True}):
        with pytest.raises(HostError, match="it asks for"):
            checked_effort("peer", {**good, **wrong})


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = some.fixed_dictionaries(
    {},
    optional={
        "lane": VALUES
        | some.just(asdict(INFO))
        | some.fixed_dictionaries({"gid": VALUES}).map(lambda d: {**asdict(INFO), **d}),
        "effort": VALUES | some.just(asdict(FEW)),
        "ready": VALUES,
        "written": VALUES,
        "result": VALUES,
    },
)


@settings(max_examples=60, deadline=None)
@given(some.lists(MESSAGES, max_size=4))
def test_whatever_a_peer_says_ends_in_an_error_in_words(messages: list[dict[str, Any]]) -> None:
    here, there = socket.socketpair()
    there.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    there.shutdown(socket.SHUT_WR)
    mine, peer = lanes()
    peer.pipe.close()
    wire = Wire(here, "there", 5)
    with suppress(BrokenPipeError), pytest.raises(HostError):
        follow(wire, mine)
    wire.close()
    there.close()
    mine.pipe.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", 18516)),
        ("node-17", ("node-17", 18516)),
        ("node-17:99", ("node-17", 99)),
        (":99", ("", 99)),
        ("[fe80::1]:99", ("fe80::1", 99)),
        ("[fe80::1]", ("fe80::1", 18516)),
        ("fe80::1", ("fe80::1", 18516)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address_of(text) == expected


def test_a_wrong_port_is_refused() -> None:
    for text in ("node:0", "node:70000", "node:http"):
        with pytest.raises(UsageError, match="is no TCP port"):
            address_of(text)


def test_a_result_of_another_shape_is_an_error() -> None:
    mine, peer = lanes()

    def leader(wire: Wire) -> None:
        wire.send(lane=asdict(INFO), effort=asdict(FEW))
        wire.receive("lane")
        wire.send(ready=True)
        wire.receive("ready")
        mine.connect(INFO, 4096)
        mine.ping(FEW)
        mine.write(FEW)
        wire.send(written=True)
        wire.receive("digest")
        wire.send(result={"peer": "x"})

    _, error = both(leader, lambda wire: follow(wire, peer))
    shut(mine, peer)
    assert "its result is not one" in str(error)
    assert PeerResult.__doc__
